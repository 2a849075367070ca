//! The boot is made this machine's own: see [`bramble_boot::Claim`].

use bramble_boot::{Arguments, Claim, Claimed, Failure, claim_path};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use crate::error::{Doing, Error};
use crate::http;
use crate::manifest::hex;

/// The longest answer, in bytes.
const LONGEST: u64 = 4096;

/// What proves later that this machine was given this boot.
pub struct Proof {
    pub nonce: String,
    /// What reports name from then on; `None` where the head said the nonce itself, as those of before do.
    pub report: Option<String>,
}

/// The nonce of this boot, drawn once: an answer that was lost is asked for again with the same one.
#[derive(Default)]
pub struct Nonce {
    drawn: Option<String>,
    /// What reports name, as far as it was answered.
    word: Option<String>,
    refused: u32,
}

/// How often a claim is tried that the head refuses. After that the machine boots without: a key that it keeps lets it in
/// all the same, and its agent says what else is wrong.
const TRIES: u32 = 3;

impl Nonce {
    fn draw(&mut self) -> Result<&str, Error> {
        if self.drawn.is_none() {
            let mut bytes = [0; 16];
            let mut filled = 0;
            // Waits until the kernel has gathered enough.
            while filled < bytes.len() {
                filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty()).doing("cannot draw a nonce")?;
            }
            self.drawn = Some(hex(&bytes));
        }
        Ok(self.drawn.as_deref().expect("drawn above"))
    }

    /// What reports name now.
    pub fn word(&self) -> Option<&str> {
        self.word.as_deref()
    }
}

/// Claims the boot, where the head did not say its nonce.
pub fn claim(arguments: &Arguments, own: &mut Nonce) -> Result<Proof, Error> {
    if let Some(nonce) = &arguments.nonce {
        return Ok(Proof { nonce: nonce.clone(), report: None });
    }
    let nonce = own.draw()?.to_owned();
    let claim = Claim { nonce: hex(&Sha256::digest(&nonce)) };
    let what = "cannot claim this boot";
    let answer = http::post(arguments.head, &claim_path(&arguments.boot), &claim.render(), http::SILENCE);
    let answer = answer.doing_as(Failure::Fetch, what)?;
    let (status, length) = (answer.status, answer.length.min(LONGEST));
    let body = http::read_all(answer, length).doing_as(Failure::Fetch, what)?;
    match status {
        200 => {
            let claimed = Claimed::read(&body).doing_as(Failure::Fetch, what)?;
            own.word = Some(claimed.report.clone());
            Ok(Proof { nonce, report: Some(claimed.report) })
        }
        403 | 404 | 409 if own.refused + 1 >= TRIES => Ok(Proof { nonce, report: None }),
        403 | 404 | 409 => {
            own.refused += 1;
            let said = String::from_utf8_lossy(&body);
            Err(Error::new(
                Failure::Claim,
                format!("the head does not give this boot to this machine: {}", said.trim()),
            ))
        }
        _ => Err(Error::new(Failure::Fetch, format!("{what}: the head answered {status}"))),
    }
}
