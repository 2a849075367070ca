//! Asking a TPM: commands and answers (TPM 2.0 Library, part 3).

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread::sleep;
use std::time::Duration;

use crate::credential::Credential;
use crate::public::{self, Malformed, Public, Template};
use crate::wire::{ALG_ECDSA, ALG_NULL, ALG_SHA256, Reader, Writer};

/// The longest answer of a TPM, in bytes.
const LONGEST: usize = 4096;
/// A TPM that is busy with its own test, or had no room, is asked again so often, so far apart.
const TRIES: u32 = 50;
const APART: Duration = Duration::from_millis(20);

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const HASHCHECK: u16 = 0x8024;

const PASSWORD: u32 = 0x4000_0009;
const NULL: u32 = 0x4000_0007;
const ENDORSEMENT: u32 = 0x4000_000b;
const OWNER: u32 = 0x4000_0001;

/// A policy session, of the three kinds.
const POLICY: u8 = 1;

/// TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY: nothing was done, and it may be asked again.
const AGAIN: [u32; 3] = [0x908, 0x90a, 0x922];

/// What carries commands to a TPM, and its answers back.
pub trait Device {
    /// Sends one command and gives the whole answer.
    ///
    /// # Errors
    /// When the TPM cannot be reached.
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        (**self).transmit(command)
    }
}

/// `/dev/tpmrm0`: each command is one write, and its answer one read. The kernel's resource manager gives whoever has it
/// open room of its own, and forgets its keys when it is closed.
impl Device for File {
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.write_all(command)?;
        let mut answer = vec![0; LONGEST];
        let length = self.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Why a TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("the TPM cannot be asked ({command})")]
    Away {
        command: &'static str,
        #[source]
        source: io::Error,
    },
    /// TPM_RC (part 2, section 6.6).
    #[error("the TPM refuses: {command} ended with {code:#x}")]
    Refused { command: &'static str, code: u32 },
    #[error("the TPM's answer to {command} cannot be read")]
    Answer {
        command: &'static str,
        #[source]
        source: Malformed,
    },
}

impl Problem {
    /// Whether it may go well later: the TPM could not be reached, or gave a warning (TPM_RC_WARN: busy, no room, locked
    /// out for a while), and no error.
    pub fn passes(&self) -> bool {
        match self {
            Problem::Away { .. } => true,
            Problem::Refused { code, .. } => code & 0xf80 == 0x900,
            Problem::Answer { .. } => false,
        }
    }
}

/// A key that is loaded in a TPM.
#[derive(Debug)]
pub struct Key {
    handle: u32,
    public: Public,
}

impl Key {
    pub fn public(&self) -> &Public {
        &self.public
    }
}

/// Data that a TPM has sealed: it is of no use without that TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// TPM2B_PRIVATE, without its length.
    pub private: Vec<u8>,
    /// TPM2B_PUBLIC, without its length.
    pub public: Vec<u8>,
}

/// Of ECDSA on P-256, each number with 32 bytes, big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub r: [u8; 32],
    pub s: [u8; 32],
}

impl Signature {
    /// As X.509 and TLS have it: an ASN.1 sequence of two integers (RFC 3279, section 2.2.3).
    pub fn der(&self) -> Vec<u8> {
        let integer = |number: &[u8; 32]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count().min(31);
            let digits = &number[zeros..];
            // The first bit is the sign.
            let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
            let length = u8::try_from(sign.len() + digits.len()).expect("33 at most");
            [&[2, length], sign, digits].concat()
        };
        let both = [integer(&self.r), integer(&self.s)].concat();
        let length = u8::try_from(both.len()).expect("70 at most");
        [&[0x30, length], both.as_slice()].concat()
    }
}

#[derive(Debug, Clone, Copy)]
enum Command {
    CreatePrimary,
    ActivateCredential,
    PolicySecret,
    Create,
    Load,
    Sign,
    Unseal,
    FlushContext,
    StartAuthSession,
}

impl Command {
    fn code(self) -> u32 {
        match self {
            Command::CreatePrimary => 0x131,
            Command::ActivateCredential => 0x147,
            Command::PolicySecret => 0x151,
            Command::Create => 0x153,
            Command::Load => 0x157,
            Command::Sign => 0x15d,
            Command::Unseal => 0x15e,
            Command::FlushContext => 0x165,
            Command::StartAuthSession => 0x176,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Command::CreatePrimary => "TPM2_CreatePrimary",
            Command::ActivateCredential => "TPM2_ActivateCredential",
            Command::PolicySecret => "TPM2_PolicySecret",
            Command::Create => "TPM2_Create",
            Command::Load => "TPM2_Load",
            Command::Sign => "TPM2_Sign",
            Command::Unseal => "TPM2_Unseal",
            Command::FlushContext => "TPM2_FlushContext",
            Command::StartAuthSession => "TPM2_StartAuthSession",
        }
    }

    /// Handles that its answer begins with.
    fn answers_handle(self) -> bool {
        matches!(self, Command::CreatePrimary | Command::Load | Command::StartAuthSession)
    }

    fn reads<T>(self, read: Result<T, Malformed>) -> Result<T, Problem> {
        read.map_err(|source| Problem::Answer { command: self.name(), source })
    }
}

/// Who asks for what a key does: nobody needs a password here, and an endorsement key wants its policy.
fn authorised(writer: Writer, session: u32) -> Writer {
    writer.u32(session).sized(&[]).u8(0).sized(&[])
}

/// What a TPM answered: the handle, where it gives one, and its parameters.
struct Answer {
    handle: u32,
    parameters: Vec<u8>,
}

/// A TPM that is asked by one program at a time.
#[derive(Debug)]
pub struct Tpm<D> {
    device: D,
}

impl<D: Device> Tpm<D> {
    pub fn new(device: D) -> Self {
        Tpm { device }
    }

    /// What carries its commands.
    pub fn into_device(self) -> D {
        self.device
    }

    /// Asks once, and again where the TPM was busy.
    fn ask(
        &mut self,
        command: Command,
        handles: &[u32],
        sessions: &[u32],
        parameters: &[u8],
    ) -> Result<Answer, Problem> {
        let tag = if sessions.is_empty() { NO_SESSIONS } else { SESSIONS };
        let mut body = handles.iter().fold(Writer::default(), |body, handle| body.u32(*handle));
        if !sessions.is_empty() {
            let all = sessions.iter().fold(Writer::default(), |all, session| authorised(all, *session)).0;
            body = body.u32(u32::try_from(all.len()).expect("a few bytes")).bytes(&all);
        }
        let body = body.bytes(parameters).0;
        let length = u32::try_from(body.len() + 10).expect("a few hundred bytes");
        let whole = Writer::default().u16(tag).u32(length).u32(command.code()).bytes(&body).0;
        let mut tries = 0;
        loop {
            let away = |source| Problem::Away { command: command.name(), source };
            let answer = self.device.transmit(&whole).map_err(away)?;
            let mut rest = Reader(&answer);
            let code = command.reads(rest.u16().and_then(|_| rest.u32()).and_then(|_| rest.u32()))?;
            tries += 1;
            if AGAIN.contains(&code) && tries < TRIES {
                sleep(APART);
                continue;
            }
            if code != 0 {
                return Err(Problem::Refused { command: command.name(), code });
            }
            return command.reads(Self::answered(rest, command.answers_handle(), !sessions.is_empty()));
        }
    }

    fn answered(mut rest: Reader<'_>, has_handle: bool, has_sessions: bool) -> Result<Answer, Malformed> {
        let handle = if has_handle { rest.u32()? } else { 0 };
        let parameters = if has_sessions {
            let length = rest.u32()?;
            rest.take(usize::try_from(length).map_err(|_| Malformed)?)?
        } else {
            rest.0
        };
        Ok(Answer { handle, parameters: parameters.to_vec() })
    }

    /// Makes a primary of the template's hierarchy: the same template gives the same key, at any time.
    ///
    /// # Errors
    /// Where there is no such TPM, or one without P-256 (a few early ones).
    pub fn primary(&mut self, template: Template) -> Result<Key, Problem> {
        let command = Command::CreatePrimary;
        // No password, nothing sealed; no outside information, no PCRs.
        let parameters = Writer::default().sized(&[0; 4]).sized(&template.wanted()).sized(&[]).u32(0).0;
        let hierarchy = match template {
            Template::Identity | Template::Endorsement => ENDORSEMENT,
            Template::Storage => OWNER,
        };
        let answer = self.ask(command, &[hierarchy], &[PASSWORD], &parameters)?;
        let public = Reader(&answer.parameters).sized().and_then(|area| Public::read(area, template));
        Ok(Key { handle: answer.handle, public: command.reads(public)? })
    }

    /// Signs a SHA-256 digest by a key of [`Template::Identity`].
    ///
    /// # Errors
    /// When the TPM does not.
    pub fn sign(&mut self, key: &Key, digest: &[u8; 32]) -> Result<Signature, Problem> {
        let command = Command::Sign;
        // The scheme is the key's own, and the digest may be of anything.
        let parameters = Writer::default().sized(digest).u16(ALG_NULL).u16(HASHCHECK).u32(NULL).sized(&[]).0;
        let answer = self.ask(command, &[key.handle], &[PASSWORD], &parameters)?;
        let read = || {
            let mut rest = Reader(&answer.parameters);
            rest.expect(ALG_ECDSA)?;
            rest.expect(ALG_SHA256)?;
            let mut number = || {
                let bytes = rest.sized()?;
                let mut number = [0; 32];
                let at = number.len().checked_sub(bytes.len()).ok_or(Malformed)?;
                number[at..].copy_from_slice(bytes);
                Ok(number)
            };
            Ok(Signature { r: number()?, s: number()? })
        };
        command.reads(read())
    }

    /// What is in a credential that was made for this endorsement key and this key.
    ///
    /// # Errors
    /// When it was made for another TPM or another key, or somebody has changed it.
    pub fn activate(&mut self, key: &Key, endorsement: &Key, credential: &Credential) -> Result<Vec<u8>, Problem> {
        let session = self.policy_session()?;
        let activated = self.activate_in(session, key, endorsement, credential);
        if activated.is_err() {
            // Where it went well the TPM has ended it.
            let _ = self.flush(session);
        }
        activated
    }

    fn policy_session(&mut self) -> Result<u32, Problem> {
        // The nonce guards answers that nobody signs here: whoever sits between a processor and its TPM is the machine.
        let parameters = Writer::default().sized(&[0; 16]).sized(&[]).u8(POLICY).u16(ALG_NULL).u16(ALG_SHA256).0;
        Ok(self.ask(Command::StartAuthSession, &[NULL, NULL], &[], &parameters)?.handle)
    }

    fn activate_in(
        &mut self,
        session: u32,
        key: &Key,
        endorsement: &Key,
        credential: &Credential,
    ) -> Result<Vec<u8>, Problem> {
        let secret = Writer::default().sized(&[]).sized(&[]).sized(&[]).u32(0).0;
        self.ask(Command::PolicySecret, &[ENDORSEMENT, session], &[PASSWORD], &secret)?;
        let command = Command::ActivateCredential;
        let parameters = Writer::default().sized(&credential.blob).sized(&credential.secret).0;
        let answer = self.ask(command, &[key.handle, endorsement.handle], &[PASSWORD, session], &parameters)?;
        command.reads(Reader(&answer.parameters).sized().map(<[u8]>::to_vec))
    }

    /// Seals data of at most 128 bytes (TPM2_Create of a keyed hash): only this TPM gives it out again, to whoever may ask
    /// it, whatever was booted.
    ///
    /// # Errors
    /// When the TPM does not, as where its owner has set a password.
    pub fn seal(&mut self, secret: &[u8]) -> Result<Sealed, Problem> {
        let parent = self.primary(Template::Storage)?;
        let sealed = self.seal_under(&parent, secret);
        // A TPM has room for few keys; what went wrong first is what the caller hears.
        let forgotten = self.forget(parent);
        sealed.and_then(|sealed| forgotten.map(|()| sealed))
    }

    fn seal_under(&mut self, parent: &Key, secret: &[u8]) -> Result<Sealed, Problem> {
        let command = Command::Create;
        // No password, the data; no outside information, no PCRs.
        let sensitive = Writer::default().sized(&[]).sized(secret).0;
        let parameters = Writer::default().sized(&sensitive).sized(&public::sealed()).sized(&[]).u32(0).0;
        let answer = self.ask(command, &[parent.handle], &[PASSWORD], &parameters)?;
        let read = || {
            let mut rest = Reader(&answer.parameters);
            let private = rest.sized()?.to_vec();
            Ok(Sealed { private, public: rest.sized()?.to_vec() })
        };
        command.reads(read())
    }

    /// What was sealed by this TPM.
    ///
    /// # Errors
    /// When another TPM sealed it, this one has been cleared since, or somebody has changed it.
    pub fn unseal(&mut self, sealed: &Sealed) -> Result<Vec<u8>, Problem> {
        let parent = self.primary(Template::Storage)?;
        let parameters = Writer::default().sized(&sealed.private).sized(&sealed.public).0;
        let loaded = self.ask(Command::Load, &[parent.handle], &[PASSWORD], &parameters);
        let forgotten = self.forget(parent);
        let item = loaded?.handle;
        let answer = self.ask(Command::Unseal, &[item], &[PASSWORD], &[]);
        let flushed = self.flush(item);
        let secret = Command::Unseal.reads(Reader(&answer?.parameters).sized().map(<[u8]>::to_vec))?;
        forgotten.and(flushed).map(|()| secret)
    }

    /// Forgets a key that was loaded. The resource manager does so at the latest when the device is closed.
    ///
    /// # Errors
    /// When the TPM does not know it.
    pub fn forget(&mut self, key: Key) -> Result<(), Problem> {
        self.flush(key.handle)
    }

    fn flush(&mut self, handle: u32) -> Result<(), Problem> {
        self.ask(Command::FlushContext, &[handle], &[], &[]).map(drop)
    }
}
