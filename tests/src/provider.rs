//! A minimal OpenID Connect provider that follows the specification (Core 1.0, section 3.1; Discovery 1.0; RFC
//! 7636), with one person who is always logged in; and the lies that a bad one tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::PublicKeyData as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The client that is registered.
pub const CLIENT: &str = "bramble head";
pub const SECRET: &str = "s3cret: with & signs";

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    None,
    Nonce,
    Audience,
    Issuer,
    Expired,
    Signature,
    /// `alg: none`, and no signature.
    Unsigned,
    /// Signed by its public key, as if that were a shared secret.
    Confused,
}

struct Inner {
    url: String,
    key: rcgen::KeyPair,
    signing: EcdsaKeyPair,
    /// What a code was given for.
    codes: Mutex<HashMap<String, HashMap<String, String>>>,
    pub lie: Mutex<Lie>,
    pub person: Mutex<Value>,
}

/// The provider.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

/// The fields of a query or of a form.
fn fields(text: &str) -> HashMap<String, String> {
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                u8::from_str_radix(std::str::from_utf8(&digits).expect("digits"), 16).expect("digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("text")
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Provider {
    /// Starts one on the loopback.
    pub async fn start(port: u16) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let signing =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &SystemRandom::new());
        let person = json!({ "sub": "248289761001", "email": "ann@example.org", "email_verified": true });
        let provider = Provider(Arc::new(Inner {
            url: format!("http://127.0.0.1:{port}"),
            key,
            signing: signing.expect("a key"),
            codes: Mutex::default(),
            lie: Mutex::new(Lie::None),
            person: Mutex::new(person),
        }));
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = serving.clone();
                tokio::spawn(async move { provider.answer(stream).await });
            }
        });
        provider
    }

    pub fn lie(&self, lie: Lie) {
        *self.0.lie.lock().expect("no panic") = lie;
    }

    pub fn is(&self, person: Value) {
        *self.0.person.lock().expect("no panic") = person;
    }

    async fn answer(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        let (head, body) = loop {
            let Ok(length @ 1..) = stream.read(&mut piece).await else { return };
            request.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let header = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned);
            let length = head.lines().find_map(header).and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        };
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let authorization = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
        });
        let (status, headers, body) = match path {
            "/.well-known/openid-configuration" => (200, String::new(), self.configuration()),
            "/jwks" => (200, String::new(), self.keys()),
            "/authorize" => self.authorize(&fields(query)),
            "/token" => self.token(&fields(&body), authorization.as_deref()),
            "/userinfo" => match authorization.as_deref() {
                Some("Bearer an-access-token") => (200, String::new(), self.0.person.lock().expect("no panic").clone()),
                _ => (401, String::new(), Value::Null),
            },
            _ => (404, String::new(), Value::Null),
        };
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    fn configuration(&self) -> Value {
        let url = &self.0.url;
        json!({
            "issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/jwks"), "userinfo_endpoint": format!("{url}/userinfo"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"], "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        })
    }

    fn keys(&self) -> Value {
        let point = self.0.key.der_bytes();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "one",
            "x": encode(&point[1..33]), "y": encode(&point[33..65]),
        }] })
    }

    fn authorize(&self, asked: &HashMap<String, String>) -> (u16, String, Value) {
        let is = |name: &str, value: &str| asked.get(name).is_some_and(|own| own == value);
        let has = |name: &str| asked.get(name).is_some_and(|own| own.len() >= 16);
        let scoped = asked.get("scope").is_some_and(|scope| scope.split(' ').any(|word| word == "openid"));
        if !(is("client_id", CLIENT) && is("response_type", "code") && is("code_challenge_method", "S256"))
            || !(scoped && has("state") && has("nonce") && has("code_challenge") && has("redirect_uri"))
        {
            return (400, String::new(), json!({ "error": "invalid_request", "asked": asked }));
        }
        let code = format!("code-{}", self.0.codes.lock().expect("no panic").len());
        self.0.codes.lock().expect("no panic").insert(code.clone(), asked.clone());
        let back = format!("Location: {}?code={code}&state={}\r\n", asked["redirect_uri"], asked["state"]);
        (302, back, Value::Null)
    }

    fn token(&self, form: &HashMap<String, String>, authorization: Option<&str>) -> (u16, String, Value) {
        let refuse = |error: &str| (400, String::new(), json!({ "error": error }));
        let credentials = authorization
            .and_then(|value| value.strip_prefix("Basic "))
            .and_then(|value| STANDARD.decode(value).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.split_once(':').map(|(id, secret)| (decode(id), decode(secret))));
        if credentials != Some((CLIENT.to_owned(), SECRET.to_owned())) {
            return refuse("invalid_client");
        }
        // A code is good once.
        let Some(asked) = form.get("code").and_then(|code| self.0.codes.lock().expect("no panic").remove(code)) else {
            return refuse("invalid_grant");
        };
        let verifier = form.get("code_verifier").map(String::as_str).unwrap_or_default();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        if form.get("redirect_uri") != asked.get("redirect_uri")
            || asked.get("code_challenge") != Some(&challenge)
            || form.get("grant_type").map(String::as_str) != Some("authorization_code")
        {
            return refuse("invalid_grant");
        }
        let id_token = self.sign(&asked["nonce"]);
        (200, String::new(), json!({ "access_token": "an-access-token", "token_type": "Bearer", "id_token": id_token }))
    }

    fn sign(&self, nonce: &str) -> String {
        let lie = *self.0.lie.lock().expect("no panic");
        let or = |wrong: Lie, lied: &str, true_one: &str| if lie == wrong { lied } else { true_one }.to_owned();
        let at = if lie == Lie::Expired { now() - 7200 } else { now() };
        let algorithm = match lie {
            Lie::Unsigned => "none",
            Lie::Confused => "HS256",
            _ => "ES256",
        };
        let header = json!({ "alg": algorithm, "kid": "one", "typ": "JWT" });
        let claims = json!({
            "iss": or(Lie::Issuer, "http://evil.example", &self.0.url),
            "aud": or(Lie::Audience, "someone else", CLIENT),
            "nonce": or(Lie::Nonce, "0123", nonce),
            "sub": self.0.person.lock().expect("no panic")["sub"], "iat": at, "exp": at + 300,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = match lie {
            Lie::Unsigned => Vec::new(),
            Lie::Confused => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.0.key.der_bytes());
                ring::hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            _ => self.0.signing.sign(&SystemRandom::new(), message.as_bytes()).expect("signed").as_ref().to_vec(),
        };
        if lie == Lie::Signature {
            signature[10] ^= 1;
        }
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
