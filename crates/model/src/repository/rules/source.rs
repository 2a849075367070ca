//! The rules of `[source]`.

use super::*;

/// The shortest time between two looks at a repository, in seconds: it may be somebody else's machine.
const SHORTEST: u32 = 5;
const USUAL: u32 = 30;

impl Rules<'_> {
    pub(super) fn source(&mut self, source: &written::SourceSection) -> Option<Source> {
        let before = self.problems.len();
        let key = |last: &'static str| ["source", last];
        let kinds = ["https://", "http://", "ssh://", "/", "file:///"];
        let is_scp = source.git.split_once(':').is_some_and(|(host, path)| host.contains('@') && !path.is_empty());
        let is_known = is_scp || kinds.iter().any(|kind| source.git.starts_with(kind) && source.git.len() > kind.len());
        if !is_known || source.git.starts_with('-') || source.git.contains(char::is_whitespace) {
            self.wrong(&key("git"), format!("`{}`: expected the URL of a git repository", source.git)).help =
                Some("write https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH or an absolute path".into());
        }
        if source.git.starts_with("http") && source.git.contains('@') {
            self.wrong(&key("git"), "has a password or token in it, and the repository would tell it to everyone")
                .help = Some("put the token into a file on the head, and name that in `token_file`".into());
        }
        let branch = source.branch.as_deref().unwrap_or("main");
        // git-check-ref-format(1), as far as people write branches.
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-_./+".contains(&c);
        if branch.is_empty()
            || branch.starts_with(['-', '/', '.'])
            || !branch.bytes().all(is_plain)
            || branch.contains("..")
        {
            self.wrong(&key("branch"), format!("`{branch}` is no name of a branch"));
        }
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
        let path = source.path.as_deref().unwrap_or_default().trim_matches('/');
        if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_))) {
            self.wrong(&key("path"), format!("`{path}` leaves the repository")).help =
                Some("name the folder of bramble.toml inside it".into());
        }
        for (at, signer) in source.signers.iter().enumerate() {
            let mut words = signer.split_whitespace();
            let kind = words.next().unwrap_or_default();
            let is_key = (kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"))
                && words.next().is_some_and(|body| body.starts_with("AAAA"))
                && !signer.contains(['\n', '\r']);
            let is_pgp = signer.trim_start().starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----");
            if !is_key && !is_pgp {
                self.wrong(
                    &["source", "signers", &at.to_string()],
                    "expected a public SSH key on one line, or a public PGP key in its armour",
                )
                .help = Some("copy the line from a `.pub` file, such as \"ssh-ed25519 AAAA… you@home\"".into());
            }
        }
        let token_file = source.token_file.as_deref().map(|path| self.places.home.join(path));
        (self.problems.len() == before).then(|| Source {
            git: source.git.clone(),
            branch: branch.to_owned(),
            every,
            path: path.to_owned(),
            signers: source.signers.clone(),
            token_file,
        })
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
