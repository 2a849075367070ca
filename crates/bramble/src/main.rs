//! `bramble`: takes a box of powered-off boards to a running cluster from one git repository.
//!
//! One file per verb in `verbs`; what they share is the repository and its places ([`place`], [`workspace`]),
//! the head ([`target`], [`client`], [`hands`], [`heads`]), the screen ([`screen`], [`terminal`]) and how it all runs and ends
//! ([`process`], [`exit`]). Imports point one way:
//!
//! ```text
//! main ─▶ verbs ─▶ hands ─▶ client ─▶ target ─▶ heads
//!   │       │                           └─▶ place ◀─ cli
//!   │       └─▶ cli, workspace ─▶ place, screen
//!   ├─▶ usage ─▶ cli
//!   └─▶ exit ─▶ client, place, process, target
//! ```

// First: what it has in the place of the standard library's macros holds in all that follow.
#[macro_use]
mod terminal;

mod cli;
mod client;
mod exit;
mod hands;
mod heads;
mod place;
mod process;
mod screen;
mod target;
mod usage;
mod verbs;
mod workspace;

use std::any::Any;
use std::panic;
use std::process::ExitCode;

use clap::Parser;

/// As a shell says it of a program that SIGPIPE (13) ended.
const PIPE: u8 = 128 + 13;

fn main() -> ExitCode {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_of_the_reader(info.payload()) {
            usual(info);
        }
    }));
    panic::catch_unwind(run).unwrap_or_else(|payload| {
        if is_of_the_reader(&*payload) { ExitCode::from(PIPE) } else { panic::resume_unwind(payload) }
    })
}

/// Whoever reads may stop before the end: `bramble plan --json | head`. The standard library panics then (rust-lang/rust,
/// issue 46016): what runs is ended in order, and nothing is said.
fn is_of_the_reader(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<String>().is_some_and(|text| text.starts_with("failed printing to stdout"))
}

fn run() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let parsed = match cli::Arguments::try_parse() {
        Ok(arguments) => match usage::folder(&words).or_else(|| usage::conflict(&arguments)) {
            None => Ok(arguments),
            Some(wrong) => Err(wrong),
        },
        // Help and the version are no errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            Err(usage::folder(&words).or_else(|| usage::advice(&error, &words)).unwrap_or_else(|| error.exit()))
        }
    };
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return ExitCode::from(usage::WRONG);
        }
    };
    let json = arguments.json;
    match verbs::run(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            screen::error(&error, json);
            exit::Exit::of(&error).into()
        }
    }
}
