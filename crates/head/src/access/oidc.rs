//! Logging in with another service's account: OpenID Connect, the authorization code flow with PKCE (OpenID
//! Connect Core 1.0, section 3.1; RFC 7636).
//!
//! ```text
//! browser ─ /login/oidc ─▶ head ─ discovery ─▶ provider
//!    ◀── redirect: state, nonce, challenge ──┘
//! browser ─ logs in there ─▶ provider ─ redirect: code, state ─▶ /login/oidc/callback
//! head ─ code, verifier, its own secret ─▶ provider ─▶ ID token ─▶ signature, issuer, audience, time, nonce
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, Once};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bramble_model::api::Role;
use bramble_model::repository::Oidc;
use bramble_model::timeline::Millis;
use bramble_system::{locked, now};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::signature::{Error as BadSignature, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use ring::signature as ring_signature;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::headers::{cookie, same};
use super::people::secret;

/// How long someone may take to log in elsewhere.
const PATIENCE: Millis = 10 * 60 * 1000;
/// Logins that are under way; more push out the oldest of the place that has begun the most.
const MOST: usize = 500;
/// Of one place (an address, a /64 of IPv6): a house behind one address logs in on a few screens at once.
const OF_PLACE: usize = 20;
/// How long the provider may take for one answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Binds a login to the browser that began it.
pub(super) const COOKIE: &str = "__Host-bramble-oidc";
/// Signatures that are taken. None of them can be made with a public key, or left out.
const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

/// Logins that are under way, by their state.
#[derive(Default)]
pub(crate) struct Flows(Mutex<HashMap<String, Flow>>);

impl Flows {
    /// One more is under way. Whoever begins many ends others of their own, and nobody else's.
    fn begin(&self, state: String, flow: Flow, now: Millis) {
        let mut flows = locked(&self.0);
        flows.retain(|_, flow| flow.since + PATIENCE > now);
        let mut of_place: BTreeMap<&str, usize> = BTreeMap::new();
        for flow in flows.values() {
            *of_place.entry(&flow.from).or_default() += 1;
        }
        let greedy = match of_place.get(flow.from.as_str()) {
            Some(own) if *own >= OF_PLACE => Some(flow.from.clone()),
            _ if flows.len() >= MOST => {
                of_place.iter().max_by_key(|(_, flows)| **flows).map(|(place, _)| (*place).to_owned())
            }
            _ => None,
        };
        let oldest = greedy.and_then(|place| {
            let own = flows.iter().filter(|(_, flow)| flow.from == place);
            own.min_by_key(|(_, flow)| flow.since).map(|(state, _)| state.clone())
        });
        if let Some(oldest) = oldest {
            flows.remove(&oldest);
        }
        flows.insert(state, flow);
    }
}

struct Flow {
    nonce: String,
    /// PKCE's `code_verifier`.
    verifier: String,
    redirect: String,
    since: Millis,
    /// The place that it was begun from.
    from: String,
}

/// What the provider says of itself (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Provider {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

/// What the ID token and the user-info endpoint say of a person.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    nonce: Option<String>,
    azp: Option<String>,
    email: Option<String>,
    #[serde(default)]
    email_verified: Verified,
    #[serde(default)]
    groups: Vec<String>,
}

/// Some providers write it as text.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Verified {
    Said(bool),
    Written(String),
    #[default]
    Silent,
}

impl Claims {
    /// The mail address, where the provider vouches for it.
    pub(super) fn mail(&self) -> Option<&str> {
        let verified = match &self.email_verified {
            Verified::Said(verified) => *verified,
            Verified::Written(text) => text == "true",
            Verified::Silent => false,
        };
        self.email.as_deref().filter(|_| verified)
    }

    /// What of it the repository goes by, which is kept with the session: also groups only where it names them, since some
    /// are in hundreds.
    pub(super) fn membership(&self, oidc: &Oidc) -> Membership {
        let named = oidc.operators.iter().chain(&oidc.viewers).filter_map(|entry| entry.strip_prefix("group:"));
        let named: BTreeSet<&str> = named.collect();
        let groups = self.groups.iter().filter(|group| named.contains(group.as_str())).cloned().collect();
        Membership { issuer: oidc.issuer.clone(), mail: self.mail().map(str::to_owned), groups }
    }
}

/// What a provider vouched for when someone logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) issuer: String,
    /// Verified.
    pub(crate) mail: Option<String>,
    pub(crate) groups: BTreeSet<String>,
}

impl Membership {
    fn is_one_of(&self, entries: &[String]) -> bool {
        entries.iter().any(|entry| match entry.strip_prefix("group:") {
            Some(group) => self.groups.contains(group),
            None if entry == "*" => true,
            None => self.mail.as_ref().is_some_and(|mail| mail.eq_ignore_ascii_case(entry)),
        })
    }

    /// The role that the repository gives for it.
    pub(crate) fn role(&self, oidc: &Oidc) -> Option<Role> {
        if self.issuer != oidc.issuer {
            None
        } else if self.is_one_of(&oidc.operators) {
            Some(Role::Operator)
        } else {
            self.is_one_of(&oidc.viewers).then_some(Role::Viewer)
        }
    }
}

/// ring's verification for jsonwebtoken, which brings none of its own here.
struct ByRing(Algorithm, DecodingKey);

impl Verifier<Vec<u8>> for ByRing {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), BadSignature> {
        let verified = match (self.0, self.1.kind()) {
            (Algorithm::RS256 | Algorithm::PS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let parameters = match self.0 {
                    Algorithm::RS256 => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
                    _ => &ring_signature::RSA_PSS_2048_8192_SHA256,
                };
                ring_signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (algorithm, DecodingKeyKind::SecretOrDer(key)) => {
                let method: &dyn ring_signature::VerificationAlgorithm = match algorithm {
                    Algorithm::ES256 => &ring_signature::ECDSA_P256_SHA256_FIXED,
                    Algorithm::ES384 => &ring_signature::ECDSA_P384_SHA384_FIXED,
                    Algorithm::EdDSA => &ring_signature::ED25519,
                    _ => return Err(BadSignature::new()),
                };
                ring_signature::UnparsedPublicKey::new(method, key).verify(message, signature)
            }
            _ => return Err(BadSignature::new()),
        };
        verified.map_err(|_| BadSignature::new())
    }
}

impl JwtVerifier for ByRing {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    // Nothing is signed here.
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(ByRing(*algorithm, key.clone()))),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Tells the libraries which cryptography is used, once.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Whoever was first, it is the same one.
        let _ = PROVIDER.install_default();
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn client(oidc: &Oidc) -> Result<reqwest::Client, String> {
    install();
    let mut builder = reqwest::Client::builder()
        .timeout(LIMIT)
        // An answer from elsewhere is not the provider's.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(ca) = &oidc.ca {
        let pem = std::fs::read(ca).map_err(|error| format!("{}: {error}", ca.display()))?;
        let certificate = reqwest::Certificate::from_pem(&pem).map_err(|error| format!("{}: {error}", ca.display()))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| bramble_system::sentence(&error))
}

async fn fetch<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, String> {
    let answer = request.send().await.map_err(|error| bramble_system::sentence(&error))?;
    let status = answer.status();
    let bytes = answer.bytes().await.map_err(|error| bramble_system::sentence(&error))?;
    if !status.is_success() {
        return Err(format!("it answers {status}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)])));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("its answer is malformed: {error}"))
}

async fn discover(client: &reqwest::Client, oidc: &Oidc) -> Result<Provider, String> {
    let provider: Provider = fetch(client.get(format!("{}/.well-known/openid-configuration", oidc.issuer))).await?;
    // Discovery, section 4.3: the same, letter by letter.
    if provider.issuer.trim_end_matches('/') != oidc.issuer {
        return Err(format!("it calls itself {}, and bramble.toml {}", provider.issuer, oidc.issuer));
    }
    Ok(provider)
}

/// The claims of an ID token that is this provider's, for this head, now, and of this login.
fn verify(token: &str, keys: &JwkSet, provider: &Provider, oidc: &Oidc, nonce: &str) -> Result<Claims, String> {
    install();
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(format!("the ID token is signed with {:?}, which is not taken", header.alg));
    }
    let key = match &header.kid {
        Some(kid) => keys.find(kid),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    };
    let key =
        DecodingKey::from_jwk(key.ok_or("the provider has no key of that name")?).map_err(|error| error.to_string())?;
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[&oidc.client_id]);
    validation.set_issuer(&[&provider.issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation).map_err(|error| error.to_string())?.claims;
    if claims.azp.as_ref().is_some_and(|azp| *azp != oidc.client_id) {
        return Err("the ID token is for another client".into());
    }
    if !claims.nonce.as_ref().is_some_and(|own| same(own.as_bytes(), nonce.as_bytes())) {
        return Err("the ID token is not of this login".into());
    }
    Ok(claims)
}

/// Where the provider sends the browser back to.
fn redirect_url(oidc: &Oidc, headers: &HeaderMap) -> Result<String, String> {
    let own = match &oidc.url {
        Some(url) => url.clone(),
        None => {
            let host =
                headers.get(header::HOST).and_then(|host| host.to_str().ok()).ok_or("the browser names no host")?;
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
            if !host.chars().all(plain) {
                return Err("the browser names a host that is none".into());
            }
            format!("https://{host}")
        }
    };
    Ok(format!("{own}/login/oidc/callback"))
}

/// Begins a login; gives its state, and where the browser is sent to.
pub(super) async fn begin(
    flows: &Flows,
    oidc: &Oidc,
    from: String,
    headers: &HeaderMap,
) -> Result<(String, String), String> {
    let provider = discover(&client(oidc)?, oidc).await?;
    let (redirect, since) = (redirect_url(oidc, headers)?, now());
    let flow = Flow { nonce: secret(), verifier: secret(), redirect, since, from };
    let state = secret();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(flow.verifier.as_bytes()));
    let needs_groups = oidc.operators.iter().chain(&oidc.viewers).any(|entry| entry.starts_with("group:"));
    let scope = if needs_groups { "openid email groups" } else { "openid email" };
    let mut url: reqwest::Url =
        provider.authorization_endpoint.parse().map_err(|_| "its authorization endpoint is no URL")?;
    url.query_pairs_mut().extend_pairs([
        ("response_type", "code"),
        ("client_id", oidc.client_id.as_str()),
        ("redirect_uri", flow.redirect.as_str()),
        ("scope", scope),
        ("state", state.as_str()),
        ("nonce", flow.nonce.as_str()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ]);
    flows.begin(state.clone(), flow, since);
    Ok((state, url.into()))
}

/// What the browser brings back.
#[derive(Deserialize)]
pub(crate) struct Back {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

/// What the provider says of the person who comes back from it.
pub(super) async fn come_back(flows: &Flows, oidc: &Oidc, back: &Back, headers: &HeaderMap) -> Result<Claims, String> {
    let state = back.state.as_deref().ok_or("the provider sends no state")?;
    // Another browser's login is not this one's.
    if !cookie(headers, COOKIE).is_some_and(|own| same(own.as_bytes(), state.as_bytes())) {
        return Err("the login was begun by another browser".into());
    }
    let flow = locked(&flows.0).remove(state);
    let flow =
        flow.filter(|flow| flow.since + PATIENCE > now()).ok_or("the login took too long, or was used already")?;
    if let Some(error) = &back.error {
        return Err(format!("the provider says: {error}"));
    }
    let code = back.code.as_deref().ok_or("the provider sends no code")?;
    let client = client(oidc)?;
    let provider = discover(&client, oidc).await?;
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", flow.redirect.as_str()),
        ("client_id", oidc.client_id.as_str()),
        ("code_verifier", flow.verifier.as_str()),
    ];
    let own_secret = match &oidc.client_secret_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => None,
    };
    let mut request = client.post(&provider.token_endpoint);
    if let Some(own_secret) = &own_secret {
        let methods = &provider.token_endpoint_auth_methods_supported;
        // Where nothing is said, it is the header (Discovery, section 3).
        let in_header = methods.is_empty() || methods.iter().any(|method| method == "client_secret_basic");
        if in_header {
            // Both are written as in a form first (RFC 6749, section 2.3.1).
            let written = |text: &str| {
                let mut pairs = reqwest::Url::parse("http://x").expect("a URL");
                pairs.query_pairs_mut().append_key_only(text);
                pairs.query().unwrap_or_default().to_owned()
            };
            request = request.basic_auth(written(&oidc.client_id), Some(written(own_secret)));
        } else {
            form.push(("client_secret", own_secret));
        }
    }
    let body = {
        let mut pairs = reqwest::Url::parse("http://x").expect("a URL");
        pairs.query_pairs_mut().extend_pairs(form);
        pairs.query().unwrap_or_default().to_owned()
    };
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    let tokens: Tokens = fetch(request).await?;
    let keys: JwkSet = fetch(client.get(&provider.jwks_uri)).await?;
    let mut claims = verify(&tokens.id_token, &keys, &provider, oidc, &flow.nonce)?;
    // Many providers say more of a person there than in the token.
    if let (Some(endpoint), Some(access)) = (&provider.userinfo_endpoint, &tokens.access_token)
        && (claims.email.is_none() || claims.groups.is_empty())
    {
        let more: Claims = fetch(client.get(endpoint).bearer_auth(access)).await?;
        if more.sub != claims.sub {
            return Err("the provider speaks of another person".into());
        }
        if claims.email.is_none() {
            (claims.email, claims.email_verified) = (more.email, more.email_verified);
        }
        if claims.groups.is_empty() {
            claims.groups = more.groups;
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oidc() -> Oidc {
        Oidc {
            issuer: "https://id.example".into(),
            client_id: "bramble".into(),
            client_secret_file: None,
            ca: None,
            url: None,
            operators: vec!["ann@example.org".into(), "group:admins".into()],
            viewers: vec!["*".into()],
        }
    }

    fn claims(text: &str) -> Claims {
        serde_json::from_str(text).expect("claims")
    }

    fn flow(from: &str, since: Millis) -> Flow {
        let text = String::new;
        Flow { nonce: text(), verifier: text(), redirect: text(), since, from: from.into() }
    }

    /// Twenty requests a second, for which no password is needed, ended everyone's login.
    #[test]
    fn whoever_begins_many_logins_ends_nobody_elses() {
        let flows = Flows::default();
        flows.begin("ann's".into(), flow("10.77.0.9", 1), 1);
        for number in 0..12_000 {
            flows.begin(format!("flood-{number}"), flow("10.77.0.66", 2 + number), 2 + number);
        }
        let is_there = |state: &str| locked(&flows.0).contains_key(state);
        assert!(is_there("ann's") && is_there("flood-11999"));
        assert_eq!(locked(&flows.0).len(), 1 + OF_PLACE);
        // From many addresses, each of which has more than the one of whoever logs in.
        for place in 0..40 {
            for number in 0..OF_PLACE {
                let state = format!("many-{place}-{number}");
                flows.begin(state, flow(&format!("10.77.1.{place}"), 20_000), 20_000);
            }
        }
        assert!(is_there("ann's") && locked(&flows.0).len() <= MOST);
        flows.begin("bob's".into(), flow("10.77.0.10", 20_001), 20_001);
        assert!(is_there("ann's") && is_there("bob's") && locked(&flows.0).len() <= MOST);
        flows.begin("later".into(), flow("10.77.0.11", 20_000 + PATIENCE), 20_000 + PATIENCE);
        assert_eq!(locked(&flows.0).len(), 2, "the others took too long");
    }

    #[test]
    fn only_a_verified_address_counts() {
        let role = |text| claims(text).membership(&oidc()).role(&oidc());
        assert_eq!(role(r#"{"sub":"1","email":"Ann@example.org","email_verified":true}"#), Some(Role::Operator));
        assert_eq!(role(r#"{"sub":"1","email":"ann@example.org","email_verified":"true"}"#), Some(Role::Operator));
        assert_eq!(role(r#"{"sub":"1","email":"ann@example.org"}"#), Some(Role::Viewer), "anyone can write that");
        assert_eq!(role(r#"{"sub":"1","groups":["admins"]}"#), Some(Role::Operator));
        let nobody = Oidc { viewers: Vec::new(), ..oidc() };
        assert_eq!(claims(r#"{"sub":"1"}"#).membership(&nobody).role(&nobody), None);
    }
}
