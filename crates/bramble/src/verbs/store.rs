//! `bramble store`: what the head keeps, and cannot read.

use anyhow::Result;
use bramble_head::control;
use bramble_model::api::{Repaired, UnreadableRecord};

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;
use crate::target::Target;

/// Whose store it is: that of a head that runs, here or elsewhere, or a file that nobody uses.
enum Held {
    Running(Client),
    Resting(std::path::PathBuf),
}

impl Held {
    fn of(place: &Place) -> Result<Self> {
        Ok(match Target::of(place)? {
            Target::Here(state) if bramble_head::unreadable::has_store(&state) && !control::runs(&state) => {
                eprintln!("no head runs here: this is the store in {}", state.display());
                Held::Resting(state)
            }
            target => Held::Running(Client::at(target)?),
        })
    }

    async fn unreadable(&self) -> Result<Vec<UnreadableRecord>> {
        match self {
            Held::Running(head) => head.unreadable().await,
            Held::Resting(state) => Ok(bramble_head::unreadable::list_of(state)?),
        }
    }

    async fn repair(&self) -> Result<Repaired> {
        match self {
            Held::Running(head) => head.repair().await,
            Held::Resting(state) => Ok(bramble_head::unreadable::repair_of(state)?),
        }
    }
}

pub async fn repair(yes: bool, place: &Place, json: bool) -> Result<Exit> {
    let held = Held::of(place)?;
    let unreadable = held.unreadable().await?;
    if !yes || unreadable.is_empty() {
        if json {
            screen::json(&unreadable)?;
        } else if unreadable.is_empty() {
            println!("every record can be read");
        } else {
            for record in &unreadable {
                println!("{}", record.problem);
            }
            println!("`bramble store repair --yes` sets {} aside", records(unreadable.len()));
        }
        // As `check` does: a script sees that there is something.
        return Ok(if unreadable.is_empty() { Exit::Done } else { Exit::Failed });
    }
    let done = held.repair().await?;
    if json {
        screen::json(&done)?;
    } else {
        println!("{} set aside:", records(done.records));
        done.files.iter().for_each(|file| println!("  {file}"));
    }
    Ok(Exit::Done)
}

fn records(number: usize) -> String {
    if number == 1 { "1 record".into() } else { format!("{number} records") }
}
