//! `bramble ca`: which CAs are trusted, and having a new one take the place of the present one.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use bramble_model::ca::{CaFinish, CaRotation, CaStatus};
use bramble_model::names::{Digest, Name};
use bramble_model::section::Ends;
use bramble_model::timeline::Millis;

use super::desired::asked;
use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::{self, ago};

const DAY: Millis = 24 * 3600 * 1000;

pub async fn show(place: &Place, json: bool) -> Result<Exit> {
    let status = Client::of(place)?.ca().await?;
    if json {
        screen::json(&status)?;
    } else {
        print!("{}", text(&status, bramble_system::now()));
    }
    Ok(Exit::Done)
}

/// As people read it.
fn text(status: &CaStatus, now: Millis) -> String {
    let since = |at: Millis| ago(Duration::from_millis(now.saturating_sub(at)));
    let days = |until: Millis| screen::counted(usize::try_from(until.saturating_sub(now) / DAY).unwrap_or(0), "day");
    let row = |(number, root): (usize, &bramble_model::ca::CaRoot)| {
        let what = match (number, root.has_issuer) {
            (0, true) => "signs by an issuer",
            (0, false) => "signs itself, as a release before made it",
            _ => "takes the place of the first",
        };
        vec![root.fingerprint.to_string(), since(root.since), days(root.until), what.to_owned()]
    };
    let rows: Vec<_> = status.roots.iter().enumerate().map(row).collect();
    let mut text = screen::table(&["CA", "SINCE", "GOOD FOR", "IT"], &rows);
    let Some(rotation) = &status.rotation else { return text };
    let _ = writeln!(text, "\nit is being rotated since {}", since(rotation.since));
    match rotation.moved.as_slice() {
        [] => text += "no node has moved yet\n",
        moved => {
            let moved: Vec<&str> = moved.iter().map(Name::as_str).collect();
            let _ = writeln!(text, "moved: {}", screen::few(&moved, ", "));
        }
    }
    text + &waits(rotation, now)
}

/// What would not find the head, and what mends it; and when it ends by itself.
fn waits(rotation: &CaRotation, now: Millis) -> String {
    let mut text = String::new();
    for loss in &rotation.losses {
        let ends = match &loss.ends {
            Ends::Person(what) => format!(" → {what}"),
            Ends::ByItself | Ends::At(_) => String::new(),
        };
        let _ = writeln!(text, "{}: {}{ends}", loss.subject, loss.reason);
    }
    let left = rotation.until.saturating_sub(now).div_ceil(DAY);
    let _ = match (left, rotation.losses.is_empty()) {
        (0, true) => writeln!(text, "it ends now"),
        (0, false) => writeln!(text, "it ends by itself when nothing of this is left"),
        (left, true) => writeln!(
            text,
            "it ends by itself in {}; `bramble ca rotate --finish` ends it now",
            screen::counted(usize::try_from(left).unwrap_or(usize::MAX), "day")
        ),
        (left, false) => writeln!(
            text,
            "it ends by itself in {}, when nothing of this is left",
            screen::counted(usize::try_from(left).unwrap_or(usize::MAX), "day")
        ),
    };
    text
}

pub async fn rotate(place: &Place, yes: bool, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    if client.ca().await?.rotation.is_some() {
        eprintln!("the CA is being rotated already");
        return show(place, json).await;
    }
    if !yes
        && !asked(
            "make a new CA, which is trusted beside the present one and takes its place in a week at the earliest?",
        )?
    {
        println!("nothing has changed");
        return Ok(Exit::Failed);
    }
    client.rotate_ca().await?;
    let shown = show(place, json).await?;
    if let (false, Some(next)) = (json, client.ca().await?.roots.get(1)) {
        println!(
            "\nnext: `bramble image build`, so that nodes that start know both; and where the repository has `cluster.ca`:\n  \
             ca = \"{}\"",
            next.fingerprint
        );
    }
    Ok(shown)
}

pub async fn finish(place: &Place, yes: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let status = client.ca().await?;
    let (Some(rotation), [old, new]) = (&status.rotation, status.roots.as_slice()) else {
        eprintln!("the CA is not being rotated: `bramble ca rotate` begins that");
        return Ok(Exit::Failed);
    };
    println!("{} takes the place of {}, which is trusted no more", new.fingerprint, old.fingerprint);
    println!("whoever has logged in from elsewhere and has not used that since compares the new one: `bramble login`");
    for loss in &rotation.losses {
        println!("lost until it is mended: {}: {}", loss.subject, loss.reason);
    }
    if !yes && !asked("is it to be so now?")? {
        println!("nothing has changed");
        return Ok(Exit::Failed);
    }
    // What was shown was said yes to, and nothing else.
    let losing = rotation.losses.iter().map(|loss| loss.subject.clone()).collect();
    client.finish_ca(&CaFinish { next: new.fingerprint, losing }).await?;
    println!("{}", over(&new.fingerprint));
    Ok(Exit::Done)
}

/// What is left to do when it is over.
fn over(new: &Digest) -> String {
    format!(
        "the CA is {new}: where the repository has `cluster.ca`, write it there\n\nnext: `bramble image build`: a node that \
         starts with an image of before trusts the old one as well"
    )
}

#[cfg(test)]
mod tests {
    use bramble_model::ca::{CaLoss, CaRoot};
    use bramble_model::subject::Subject;

    use super::*;

    #[test]
    fn whoever_has_ended_a_rotation_is_told_to_build() {
        assert!(over(&Digest([1; 32])).contains("next: `bramble image build`"));
    }

    #[test]
    fn what_is_shown_of_the_ca() {
        let root =
            |n: u8, has_issuer| CaRoot { fingerprint: Digest([n; 32]), since: DAY, until: 3650 * DAY, has_issuer };
        let loss = |subject, reason: &str, ends| CaLoss { subject, reason: reason.into(), ends };
        let node = |name: &str| name.parse().expect("a name");
        let losses = vec![
            loss(Subject::node(&node("m2")), "it is told", Ends::ByItself),
            loss(Subject::node(&node("m3")), "it is away", Ends::Person("start m3 again".into())),
        ];
        let rotation = |moved: &[&str], losses| {
            Some(CaRotation {
                since: 9 * DAY,
                until: 16 * DAY,
                moved: moved.iter().map(|name| node(name)).collect(),
                losses,
            })
        };
        let roots = vec![root(1, false), root(2, true)];
        let shown = [
            text(&CaStatus { roots: vec![root(1, true)], rotation: None }, 10 * DAY),
            text(&CaStatus { roots: roots.clone(), rotation: rotation(&[], losses.clone()) }, 10 * DAY),
            text(&CaStatus { roots: roots.clone(), rotation: rotation(&["m1"], losses) }, 20 * DAY),
            text(&CaStatus { roots, rotation: rotation(&["m1", "m2"], Vec::new()) }, 10 * DAY),
        ];
        insta::assert_snapshot!(shown.join("\n"));
    }
}
