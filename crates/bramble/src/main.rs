//! `bramble`: takes a box of powered-off boards to a running cluster from one git repository.
//!
//! One file per verb in `verbs`; what they share is the repository and its places
//! ([`workspace`]), the head's control socket ([`client`]) and the screen ([`screen`]).

mod cli;
mod client;
mod hands;
mod heads;
mod screen;
mod verbs;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let json = arguments.json;
    match verbs::run(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            screen::error(&error, json);
            cli::Exit::of(&error).into()
        }
    }
}
