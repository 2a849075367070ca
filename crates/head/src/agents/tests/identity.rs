//! Agents that say where their key is, over TLS; those with a TPM have a real one.

use std::path::Path;
use std::sync::Mutex;

use bramble_model::agent::{self, Proof, Prove};
use bramble_model::names::Bytes;
use bramble_testing::Chip;
use bramble_tpm::{Credential, Key, Template, Tpm};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::*;

/// Managers are known by what they keep, and every boot that was handed out may be let in.
const REPOSITORY: &str = "[cluster]\nname = \"c\"\nadmission = \"open\"\n[network]\ninterface = \"lo\"\n\
    [roles.m]\nengine = \"manager\"\n[nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"m\"\n";

fn m1() -> Name {
    "m1".parse().expect("a name")
}

/// A machine with a TPM, whose agent has its keys loaded.
struct Machine {
    tpm: Mutex<Tpm<Chip>>,
    key: Key,
    endorsement: Key,
}

impl Machine {
    fn on(state: &Path) -> Self {
        let mut tpm = Chip::on(state);
        let (key, endorsement) = (tpm.primary(Template::Identity), tpm.primary(Template::Endorsement));
        Machine { tpm: Mutex::new(tpm), key: key.expect("made"), endorsement: endorsement.expect("made") }
    }

    fn keeps(&self) -> agent::Keeps {
        let area = |key: &Key| Bytes(key.public().area().to_vec());
        agent::Keeps::Tpm { endorsement: area(&self.endorsement), key: area(&self.key) }
    }

    fn prove(&self, prove: &Prove) -> Option<Bytes> {
        let credential = Credential { blob: prove.credential.0.clone(), secret: prove.secret.0.clone() };
        locked(&self.tpm).activate(&self.key, &self.endorsement, &credential).ok().map(Bytes)
    }
}

impl PublicKeyData for Machine {
    fn der_bytes(&self) -> &[u8] {
        self.key.public().point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Machine {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let digest = digest(&SHA256, message).as_ref().try_into().expect("its length");
        Ok(locked(&self.tpm).sign(&self.key, &digest).expect("signed").der())
    }
}

fn request(key: &impl SigningKey) -> String {
    CertificateParams::default().serialize_request(key).and_then(|csr| csr.pem()).expect("a request")
}

/// Hands out a boot, and asks to be let in with it. `prove` answers where the head asks for a proof.
async fn asks(
    agents: &Agents,
    address: SocketAddr,
    boot: &str,
    (csr, keeps): (String, agent::Keeps),
    prove: impl FnOnce(&Prove) -> Bytes,
) -> Result<Enrolled, String> {
    let (boot, nonce) = (BootId(boot.to_owned()), "00ff".to_owned());
    let digest = Digest(Sha256::digest(nonce.as_bytes()).into());
    let served = Served { id: boot.clone(), nonce: Some(digest), set: Digest([1; 32]), card: None, by_datagram: false };
    admissions::change(&agents.store, &m1(), |record| record.serve(served.clone(), 1, false)).expect("written");
    let mut lines = dial(agents, address, None).await;
    let request = EnrolRequest { node: m1(), boot, nonce, csr, keeps, shows_digits: false };
    lines.send(serde_json::to_string(&request).expect("plain data")).await.expect("it is connected");
    let mut answer: Value =
        serde_json::from_str(&lines.next().await.expect("an answer").expect("a line")).expect("JSON");
    if answer.get("credential").is_some() {
        let proof = Proof { proof: prove(&serde_json::from_value(answer).expect("a question")) };
        lines.send(serde_json::to_string(&proof).expect("plain data")).await.expect("it is connected");
        answer = serde_json::from_str(&lines.next().await.expect("a verdict").expect("a line")).expect("JSON");
    }
    match answer["refused"].as_str() {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(serde_json::from_value(answer).expect("a certificate")),
    }
}

fn unasked(_: &Prove) -> Bytes {
    panic!("it is asked for a proof")
}

#[tokio::test]
async fn a_key_in_a_tpm_is_let_in_when_that_has_proved_it_and_from_then_on_alone() {
    let (folder, chip) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let machine = Machine::on(chip.path());
    let wrong = |_: &Prove| Bytes(vec![0; 32]);
    let refused = asks(&agents, address, "1", (request(&machine), machine.keeps()), wrong).await.expect_err("unproved");
    assert!(refused.contains("not in the TPM that it names"), "{refused}");
    let proves = |prove: &Prove| machine.prove(prove).expect("it is in there");
    let first = asks(&agents, address, "2", (request(&machine), machine.keeps()), proves).await;
    assert_eq!(first.expect("let in").document.hostname, m1());
    // Power off and on: the same key, which is known now. Another one waits for a person, whatever it keeps.
    drop(machine);
    let machine = Machine::on(chip.path());
    asks(&agents, address, "3", (request(&machine), machine.keeps()), unasked).await.expect("it is known");
    let key = KeyPair::generate().expect("a key");
    for keeps in [agent::Keeps::Nothing, agent::Keeps::Variable, agent::Keeps::Unknown] {
        let refused = asks(&agents, address, "4", (request(&key), keeps), unasked).await.expect_err("another key");
        assert!(refused.contains("another key than the one that it is known by"), "{refused}");
    }
}

/// Public halves are what anyone may have who was asked for a proof once.
#[tokio::test]
async fn another_machine_is_not_let_in_by_what_a_tpm_says_of_itself() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [folder, chip, other] = folders.each_ref().map(tempfile::TempDir::path);
    let agents = agents_of(folder, REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let (machine, thief) = (Machine::on(chip), Machine::on(other));
    // Its own key, in the other's TPM.
    let (agent::Keeps::Tpm { endorsement, key }, agent::Keeps::Tpm { key: thiefs, .. }) =
        (machine.keeps(), thief.keeps())
    else {
        panic!("both have TPMs")
    };
    let forged = agent::Keeps::Tpm { endorsement: endorsement.clone(), key: thiefs };
    let cannot = |prove: &Prove| thief.prove(prove).unwrap_or(Bytes(vec![0; 32]));
    let refused = asks(&agents, address, "1", (request(&thief), forged), cannot).await.expect_err("a forgery");
    assert!(refused.contains("not in the TPM that it names"), "{refused}");
    // A key of its own, said to be the TPM's.
    let software = KeyPair::generate().expect("a key");
    let refused = asks(&agents, address, "2", (request(&software), machine.keeps()), unasked).await;
    assert!(refused.expect_err("another key").contains("another key than its TPM's"));
    // Keys that could leave a TPM, or are none.
    for area in [Vec::new(), vec![0; 100], endorsement.0.clone()] {
        let keeps = agent::Keeps::Tpm { endorsement: endorsement.clone(), key: Bytes(area) };
        let refused = asks(&agents, address, "3", (request(&machine), keeps), unasked).await.expect_err("no identity");
        assert!(refused.contains("not what a TPM says"), "{refused}");
    }
    let keeps = agent::Keeps::Tpm { endorsement: key.clone(), key };
    assert!(asks(&agents, address, "4", (request(&machine), keeps), unasked).await.is_err());
}

#[tokio::test]
async fn a_manager_that_keeps_nothing_waits_for_a_person() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let key = KeyPair::generate().expect("a key");
    let fleeting = || (request(&key), agent::Keeps::Nothing);
    let refused = asks(&agents, address, "1", fleeting(), unasked).await.expect_err("it keeps none");
    assert!(refused.contains("wants an identity that is kept"), "{refused}");
    let fingerprint = RequestedKey::of(&request(&key)).expect("a key").fingerprint();
    agents.approve(&m1(), &fingerprint).expect("written");
    asks(&agents, address, "2", fleeting(), unasked).await.expect("a person let it in");
}

/// What a machine says of itself ends up in the store, and before a person's eyes.
#[tokio::test]
async fn what_a_machine_says_of_its_board_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let key = KeyPair::generate().expect("a key");
    let cards: Vec<_> =
        (0..300_u32).map(|n| bramble_model::names::Mac([2, 0, 0, 0, (n >> 8) as u8, n as u8])).collect();
    let board = Some(format!("\u{1b}[2Jboard\u{202e}{}", "x".repeat(6_000)));
    let keeps = agent::Keeps::Disk { cards, board };
    asks(&agents, address, "1", (request(&key), keeps), unasked).await.expect("let in");
    let kept = serde_json::to_string(&admissions::of(&agents.store, &m1()).expect("read").kept).expect("plain data");
    assert!(kept.len() < 2000 && kept.contains("[2Jboardxxx") && !kept.contains("u202e"), "{kept}");
}
