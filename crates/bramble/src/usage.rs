//! What a person hears who used the command line wrongly: what to type instead.

use std::path::Path;

use bramble_model::repository::Cluster;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, ValueHint};

use crate::cli::{Arguments, Verb};

/// The exit code of wrong usage, as clap has it.
pub const WRONG: u8 = 2;

/// What does not go together, though each is good by itself; and a word that is no revision.
pub fn conflict(arguments: &Arguments) -> Option<String> {
    match &arguments.verb {
        Verb::Plan { revision: Some(word), .. }
        | Verb::Apply { revision: Some(word), .. }
        | Verb::Rollback { revision: Some(word), .. } => no_revision(word),
        Verb::Init { folder } if arguments.place.is_named() => {
            let folder = quoted(&folder.to_string_lossy());
            Some(format!("`init` makes the folder that is its word: type `bramble init {folder}`, without -C"))
        }
        _ => None,
    }
}

/// Why a word names no revision, whatever the head has: `main`, `b`.
fn no_revision(word: &str) -> Option<String> {
    if word.len() >= 4 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(format!(
        "{} is no revision: that is the digest of a snapshot or a commit, by 4 or more of its first hexadecimal digits; \
         `bramble history` lists them",
        quoted(word)
    ))
}

/// A command line by its words, as far as clap would take it apart.
struct Line<'a> {
    words: &'a [String],
    /// The verb that they come to.
    verb: Command,
    /// Where words are that are neither the verb's own nor an option's.
    others: Vec<usize>,
    has_directory: bool,
}

impl<'a> Line<'a> {
    fn of(words: &'a [String]) -> Self {
        let mut verb = Arguments::command();
        verb.build();
        let (mut others, mut has_directory, mut at) = (Vec::new(), false, 1);
        while let Some(word) = words.get(at).filter(|word| *word != "--") {
            if word.len() > 1 && word.starts_with('-') {
                has_directory |= word.starts_with("-C") || word.starts_with("--directory");
                at += usize::from(takes_the_next(&verb, word));
            } else if let Some(inner) = verb.find_subcommand(word).cloned() {
                verb = inner;
            } else {
                others.push(at);
            }
            at += 1;
        }
        Line { words, verb, others, has_directory }
    }

    /// What to type where this word is the folder. One that lacks a word is left open.
    fn with_folder(&self, folder: usize) -> Option<String> {
        let (program, word) = (Path::new(self.words.first()?).file_name()?.to_str()?, &self.words[folder]);
        let kept = self.words.iter().enumerate().skip(1).filter(|(at, _)| *at != folder).map(|(_, word)| word.as_str());
        let line = [program, "-C", word].into_iter().chain(kept).map(quoted).collect::<Vec<_>>().join(" ");
        let wanted = self.verb.get_positionals().filter(|one| one.is_required_set() && !one.is_last_set()).count();
        Some(if self.others.len() > wanted { line } else { format!("{line} …") })
    }
}

/// Whether the word behind this option is its value.
fn takes_the_next(verb: &Command, option: &str) -> bool {
    let takes = |found: Option<&Arg>| found.is_some_and(|found| found.get_action().takes_values());
    match option.strip_prefix("--") {
        Some(long) => takes(verb.get_arguments().find(|one| one.get_long() == Some(long))),
        // Only the last of several may have it: `-fn all`, and not `-nall`.
        None => {
            let of = |short| verb.get_arguments().find(|one| one.get_short() == Some(short));
            let taker = option.char_indices().skip(1).find(|(_, short)| takes(of(*short)));
            taker.is_some_and(|(at, short)| at + short.len_utf8() == option.len())
        }
    }
}

/// For a folder as the first word of any verb that takes neither a path nor an address there: how it is named.
pub fn folder(words: &[String]) -> Option<String> {
    let line = Line::of(words);
    let at = *line.others.first()?;
    let takes = line.verb.get_positionals().find(|one| !one.is_last_set());
    let takes_any = takes.is_some_and(|one| one.get_value_hint() != ValueHint::Unknown);
    let word = words[at].as_str();
    let is_path = word.contains('/') || word.starts_with('.');
    if line.has_directory || takes_any || !(is_path || Cluster::is_in(Path::new(word))) {
        return None;
    }
    let told =
        format!("the folder of a repository is named with -C, and not by a word: type `{}`", line.with_folder(at)?);
    let is_a_name = takes.is_some() && !is_path;
    Some(if is_a_name { format!("{told}; where {} is meant as a name, say -C, too", quoted(word)) } else { told })
}

/// For a word that no verb takes: how the folder of a repository is named. `None` where clap's own words say
/// it better.
pub fn advice(error: &clap::Error, words: &[String]) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    let line = Line::of(words);
    if line.has_directory {
        return None;
    }
    // The word too many may be the one behind the folder.
    let is_folder = |at: &usize| words[*at].starts_with(['.', '/']) && Path::new(&words[*at]).is_dir();
    let mut others = line.others.iter().copied();
    let at = others.clone().find(is_folder).or_else(|| others.rfind(|at| words[*at] == *word))?;
    let (word, command) = (&words[at], line.with_folder(at)?);
    Some(if Path::new(word).is_dir() {
        format!("the folder of a repository is named with -C, and not by a word: type `{command}`")
    } else {
        format!("`{word}` is one word too many; if it is the folder of a repository, type `{command}`")
    })
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
    fn a_word_that_is_no_revision_is_refused() {
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
            }
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
        let init = Arguments::try_parse_from(["bramble", "-C", "home", "init", "new"]).expect("good words");
        assert!(conflict(&init).expect("they do not go together").contains("`bramble init new`"));
        let line = ["bramble", "exec", "-n", "all", "--", "tar", "-C", "/"];
        assert!(!Arguments::try_parse_from(line).expect("good").place.is_named(), "that is tar's");
    }

    #[test]
    fn no_verb_takes_a_folder_as_its_first_word_but_those_that_take_paths_or_addresses() {
        fn leaves(command: &Command, before: &[String], all: &mut Vec<Vec<String>>) {
            let words = [before, &[command.get_name().to_owned()]].concat();
            match command.has_subcommands() {
                true => command.get_subcommands().for_each(|inner| leaves(inner, &words, all)),
                false => all.push(words),
            }
        }
        let mut all = Vec::new();
        leaves(&Arguments::command(), &[], &mut all);
        let takes = |words: &&Vec<String>| folder(&[words.as_slice(), &["/srv/home".to_owned()]].concat()).is_none();
        let taking: Vec<String> = all.iter().filter(takes).map(|words| words[1..].join(" ")).collect();
        let paths = [
            "init",
            "source set",
            "image key make",
            "image pack",
            "cp",
            "login",
            "logout",
            "restore",
            "head save-seal",
        ];
        assert_eq!(taking, paths);
    }
}
