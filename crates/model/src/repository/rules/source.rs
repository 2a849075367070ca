//! The rules of `[source]`.

use super::*;
use crate::source::{Branch, Inside, Signer, Url, Wrong};

/// The shortest time between two looks at a repository, in seconds: it may be somebody else's machine.
const SHORTEST: u32 = 5;
const USUAL: u32 = 30;

impl Rules<'_> {
    pub(super) fn source(&mut self, source: &written::SourceSection) -> Option<Source> {
        let before = self.problems.len();
        let key = |last: &'static str| ["source", last];
        let git = self.taken(&key("git"), source.git.parse::<Url>());
        let branch = self.taken(&key("branch"), source.branch.as_deref().unwrap_or("main").parse::<Branch>());
        let every = match source.every.as_deref().map(seconds) {
            None => USUAL,
            Some(Some(every)) if every >= SHORTEST => every,
            Some(_) => {
                self.wrong(
                    &key("every"),
                    format!("expected a time of {SHORTEST} s at least, such as \"30s\" or \"5m\""),
                );
                USUAL
            }
        };
        let path = self.taken(&key("path"), source.path.as_deref().unwrap_or_default().parse::<Inside>());
        for (at, signer) in source.signers.iter().enumerate() {
            self.taken(&["source", "signers", &at.to_string()], signer.parse::<Signer>());
        }
        let token_file = source.token_file.as_deref().map(|path| self.places.home.join(path));
        if let (Some(git), Some(_)) = (&git, &token_file) {
            self.taken(&key("token_file"), git.takes_token());
        }
        let (git, branch, path) = (git?, branch?, path?);
        (self.problems.len() == before).then(|| Source {
            git: git.to_string(),
            branch: branch.as_str().to_owned(),
            every,
            path: path.to_string(),
            signers: source.signers.clone(),
            token_file,
        })
    }

    fn taken<T>(&mut self, key: &[&str], setting: Result<T, Wrong>) -> Option<T> {
        setting.map_err(|wrong| self.wrong(key, wrong.wrong).help = Some(wrong.help.into())).ok()
    }
}

/// `30s`, `5m` or `1h`, in seconds.
fn seconds(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    digits.parse::<u32>().ok()?.checked_mul(factor)
}
