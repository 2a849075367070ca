//! What a person hears who used the command line wrongly: what to type instead.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::{Arguments, Verb};

/// The exit code of wrong usage, as clap has it.
pub const WRONG: u8 = 2;

/// What does not go together, though each is good by itself; and a word that cannot be what its verb takes.
pub fn conflict(arguments: &Arguments) -> Option<String> {
    match &arguments.verb {
        Verb::Plan { revision: Some(word), .. } => no_revision("plan", word),
        Verb::Apply { revision: Some(word), .. } => no_revision("apply", word),
        Verb::Rollback { revision: Some(word), .. } => no_revision("rollback", word),
        Verb::Retry { what: word } => no_name("retry", word),
        Verb::Why { machine: word } => no_name("why", word),
        Verb::Reboot { nodes: word, .. } => no_name("reboot", word),
        Verb::Halt { nodes: word, .. } => no_name("halt", word),
        Verb::Init { folder } if arguments.place.is_named() => {
            let folder = quoted(&folder.to_string_lossy());
            Some(format!("`init` makes the folder that is its word: type `bramble init {folder}`, without -C"))
        }
        _ => None,
    }
}

/// Why a word names nothing of a cluster: it is a path.
fn no_name(verb: &str, word: &str) -> Option<String> {
    let word = word.strip_prefix("./").unwrap_or(word);
    let is_path = word.starts_with(['.', '/']) || word.ends_with('/');
    let told = |folder| format!("{folder} is a path. A folder is named with -C: `bramble -C {folder} {verb} …`");
    is_path.then(|| told(quoted(word)))
}

/// Why a word names no revision, whatever the head has: `home`, `main`, `b`.
fn no_revision(verb: &str, word: &str) -> Option<String> {
    if word.len() >= 4 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut told = format!(
        "{} is no revision: that is the digest of a snapshot or a commit, by 4 or more of its first hexadecimal digits; \
         `bramble history` lists them",
        quoted(word)
    );
    if Path::new(word).is_dir() {
        told += &format!(". A folder is named with -C: `bramble -C {} {verb}`", quoted(word));
    }
    Some(told)
}

/// For a word that no verb takes: how the folder of a repository is named. `None` where clap's own words say
/// it better.
pub fn advice(error: &clap::Error, words: &[String]) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    // The word too many may be the one behind the folder.
    let word =
        words.iter().skip(1).find(|said| said.starts_with(['.', '/']) && Path::new(said).is_dir()).unwrap_or(word);
    let command = with_folder(words, word)?;
    Some(if Path::new(word).is_dir() {
        format!("the folder of a repository is named with -C, and not by a word of the verb: type `{command}`")
    } else {
        format!("`{word}` is one word too many; if it is the folder of a repository, type `{command}`")
    })
}

/// The same command line with this word as the folder.
fn with_folder(words: &[String], word: &str) -> Option<String> {
    let (program, rest) = words.split_first()?;
    let names_one = |said: &String| said.starts_with("-C") || said.starts_with("--directory");
    if word.starts_with('-') || rest.iter().any(names_one) {
        return None;
    }
    let at = rest.iter().rposition(|said| said == word)?;
    let program = Path::new(program).file_name()?.to_str()?;
    let kept = rest.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, said)| said.as_str());
    Some([program, "-C", word].into_iter().chain(kept).map(quoted).collect::<Vec<_>>().join(" "))
}

/// As a shell reads it as one word (POSIX.1-2017, XCU section 2.2.2).
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@,=+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn told(line: &[&str]) -> Option<String> {
        let error = Arguments::try_parse_from(line).err().expect("refused");
        assert_eq!(error.exit_code(), i32::from(WRONG));
        advice(&error, &line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_folder_as_a_word_is_refused_with_what_to_type() {
        for (line, wanted) in [
            (&["bramble", "status", "home"][..], "`bramble -C home status`"),
            (&["/usr/bin/bramble", "check", "my home", "--json"], "`bramble -C 'my home' check --json`"),
            (&["bramble", "image", "build", "/srv/home"], "`bramble -C /srv/home image build`"),
            (&["bramble", "lab", "up", "home", "--check"], "`bramble -C home lab up --check`"),
            (&["bramble", "power", "on", "w1", "home"], "`bramble -C home power on w1`"),
        ] {
            let told = told(line).expect("advice");
            assert!(told.ends_with(wanted), "{told}");
        }
        let told_of = told(&["bramble", "router-recipe", "/", "dnsmasq"]).expect("advice");
        assert!(told_of.ends_with("`bramble -C / router-recipe dnsmasq`"), "{told_of}");
        assert!(told(&["bramble", "status", "/"]).expect("advice").starts_with("the folder of a repository"));
        assert_eq!(told(&["bramble", "status", "--nonsense"]), None);
        assert_eq!(told(&["bramble", "-C", "home", "status", "other"]), None, "one is named already");
    }

    #[test]
    fn a_word_that_is_no_revision_is_refused_and_a_folder_is_named_with_its_option() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().join("home");
        std::fs::create_dir(&home).expect("a folder");
        let home = home.to_str().expect("UTF-8");
        let told = |line: &[&str]| {
            let line = [&["bramble"], line].concat();
            conflict(&Arguments::try_parse_from(line).expect("good words"))
        };
        for verb in ["plan", "apply", "rollback"] {
            for word in ["b", "main", "HEAD", "3f2", "3f2a91c0x"] {
                let told = told(&[verb, word]).expect("refused");
                assert!(
                    told.starts_with(&format!("{word} is no revision: that is the digest of a snapshot")),
                    "{told}"
                );
                assert!(!told.contains("-C"), "there is no such folder: {told}");
            }
            let of_folder = told(&[verb, home]).expect("refused");
            assert!(of_folder.ends_with(&format!("`bramble -C {home} {verb}`")), "{of_folder}");
            assert_eq!(told(&[verb, "3f2a91c0"]), None);
            assert_eq!(told(&[verb]), None);
        }
    }

    #[test]
    fn the_folder_may_come_before_the_verb_and_behind_it() {
        for line in [["bramble", "-C", ".", "status"], ["bramble", "status", "-C", "."]] {
            let arguments = Arguments::try_parse_from(line).expect("good");
            assert!(arguments.place.is_named());
        }
        let line = ["bramble", "lab", "power", "on", "w1", "-C", "home"];
        assert!(Arguments::try_parse_from(line).expect("good").place.is_named());
        for line in [["bramble", "why", "."], ["bramble", "halt", "/srv/home"], ["bramble", "retry", "home/"]] {
            let told = conflict(&Arguments::try_parse_from(line).expect("good words")).expect("a path is no name");
            assert!(told.contains("is a path") && told.contains(&format!(" {} …`", line[1])), "{told}");
        }
        let init = Arguments::try_parse_from(["bramble", "-C", "home", "init", "new"]).expect("good words");
        assert!(conflict(&init).expect("they do not go together").contains("`bramble init new`"));
        let line = ["bramble", "exec", "-n", "all", "--", "tar", "-C", "/"];
        assert!(!Arguments::try_parse_from(line).expect("good").place.is_named(), "that is tar's");
    }
}
