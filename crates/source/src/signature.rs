//! Whether a commit is signed by someone whose signature counts. What git and gpg know of other keys does not matter:
//! each check has only the keys of `signers`.

use bramble_model::source::Signer;
use bramble_system::CommandError;

use crate::git::{Git, detail, exit_code};
use crate::problem::Problem;
use crate::settings::Commit;

/// The signer whose key made the commit's signature, as a person knows it: the fingerprint of an OpenPGP key, or the
/// SSH key itself.
pub(crate) fn check(git: &Git<'_>, commit: &Commit, signers: &[Signer]) -> Result<String, Problem> {
    let doing = "check the signature";
    let raw = git.run(doing, ["cat-file", "commit", commit.as_str()])?;
    if !is_signed(&raw.stdout) {
        return Err(Problem::Unsigned { commit: commit.to_string() });
    }
    // Short, since gpg's own files in it may be sockets; and away again at the end.
    let folder = tempfile::tempdir().map_err(Problem::file("make a folder in", std::env::temp_dir()))?;
    for (index, signer) in signers.iter().enumerate() {
        let home = folder.path().join(index.to_string());
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&home)
            .map_err(Problem::file("make the folder", &home))?;
        let allowed = home.join("allowed");
        let unreadable = |error: CommandError| match exit_code(&error) {
            Some(_) => Problem::SignerUnreadable { detail: detail(&error) },
            None => Problem::program(doing, error),
        };
        let line = match signer {
            Signer::Ssh { key } => format!("signer namespaces=\"git\" {key}\n"),
            Signer::Gpg { .. } => String::new(),
        };
        std::fs::write(&allowed, line).map_err(Problem::file("write", &allowed))?;
        if let Signer::Gpg { armour } = signer {
            let import = git.program("gpg").args(["--batch", "--no-autostart", "--quiet", "--import"]);
            import.env("GNUPGHOME", &home).text(armour.clone()).run().map_err(unreadable)?;
        }
        let verify = git
            .command(["-c".to_owned(), format!("gpg.ssh.allowedSignersFile={}", allowed.display())])
            .args(["verify-commit", "--raw", commit.as_str()])
            .env("GNUPGHOME", &home);
        match (verify.run(), signer) {
            (Ok(_), Signer::Ssh { key }) => return Ok(key.clone()),
            (Ok(output), Signer::Gpg { .. }) => {
                if let Some(fingerprint) = valid_signature(&output.stderr) {
                    return Ok(fingerprint);
                }
            }
            (Err(error), _) if exit_code(&error).is_some() => {}
            (Err(error), _) => return Err(Problem::program(doing, error)),
        }
    }
    Err(Problem::StrangeSigner { commit: commit.to_string() })
}

/// Whether the head of a commit object has a signature, good or not.
fn is_signed(object: &[u8]) -> bool {
    let lines = object.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    lines.into_iter().any(|line| line.starts_with(b"gpgsig ") || line.starts_with(b"gpgsig-sha256 "))
}

/// The fingerprint of the primary key in gpg's status line VALIDSIG (its last field).
fn valid_signature(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("[GNUPG:] VALIDSIG "))?;
    line.split_whitespace().last().map(str::to_owned)
}
