//! `bramble audit`: who changed what, what was refused, and whether the log is whole.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bramble_model::audit::{Begins, Broken, Chain, Copied, Entry, Follower, Position, Verdict};
use bramble_model::names::Digest;
use serde::Serialize;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::process::{Interrupted, Interrupts};
use crate::screen::{self, ago};

/// Seconds that the head is asked to wait for news.
const WAIT: u64 = 20;
/// What is wrong with a copy, as many lines as people read.
const MOST: usize = 20;

fn since(at: u64) -> String {
    ago(Duration::from_millis(bramble_system::now().saturating_sub(at)))
}

fn row(entry: &Entry) -> Vec<String> {
    let at = entry.folded.map_or(entry.at, |folded| folded.last);
    let result = match entry.folded {
        Some(folded) if folded.times > 1 => {
            format!("{} ({} times since {})", entry.result, folded.times, since(entry.at))
        }
        _ => entry.result.clone(),
    };
    vec![since(at), entry.who.clone(), entry.from.clone(), entry.what.clone(), result]
}

/// Lists the latest, and goes on as more come, where that is asked for.
pub async fn list(last: usize, follow: bool, place: &Place, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    // What comes while the list is made is in both; it is told once.
    let mut position = if follow { Some(client.audit_news(None, 0).await?.next) } else { None };
    let entries = client.audit(last).await?;
    let Some(position) = position.as_mut() else {
        if json {
            screen::json(&entries)?;
        } else {
            let rows: Vec<_> = entries.iter().map(row).collect();
            print!("{}", screen::table(&["WHEN", "WHO", "FROM", "WHAT", "RESULT"], &rows));
        }
        return Ok(Exit::Done);
    };
    let is_old = |entry: &&Entry| entry.folded.is_some() || entry.number <= position.link;
    entries.iter().filter(is_old).try_for_each(|entry| line(entry, json))?;
    let mut stop = Interrupts::listen()?;
    loop {
        let news = tokio::select! {
            news = client.audit_news(Some(*position), WAIT) => news?,
            () = stop.next() => return Err(Interrupted.into()),
        };
        news.entries.iter().try_for_each(|entry| line(entry, json))?;
        *position = news.next;
    }
}

/// One entry as it comes: a line of its own, for whoever reads it through a pipe.
fn line(entry: &Entry, json: bool) -> Result<()> {
    let text = if json { serde_json::to_string(entry)? } else { row(entry).join("  ") };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write what has come")
}

fn said(broken: &Broken) -> String {
    match broken {
        Broken::Missing { from, to } if from == to => format!("entry {from} is missing"),
        broken => broken.to_string(),
    }
}

/// What was found of the log and of a copy.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    verdict: Verdict,
    /// What is wrong with the copy, and how many of its entries were compared.
    copy: Option<Compared>,
}

/// A copy beside the head's log.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Compared {
    same: usize,
    /// Entries that the head does not keep any more.
    expired: usize,
    wrong: Vec<String>,
}

/// Compares each entry of a copy with the head's of the same number.
fn compare(copy: &str, hashes: &BTreeMap<u64, Digest>, chain: &Chain) -> Compared {
    let mut compared = Compared::default();
    // What the next entry of the copy has to follow on.
    let mut follows = None;
    for (at, text) in copy.lines().enumerate().filter(|(_, text)| !text.is_empty()) {
        let at = at + 1;
        let (link, hash) = match serde_json::from_str(text) {
            Ok(Copied::Change { link, hash }) => (link, hash),
            Ok(Copied::Refusal(_)) => continue,
            Ok(Copied::Begins(Begins { after, hash, .. })) => {
                // What the head has of that number by now is what it had then.
                let is_another = hashes.get(&after).is_some_and(|own| hash != Some(*own));
                follows = (!is_another && after <= chain.last).then_some((after, hash));
                if is_another {
                    compared
                        .wrong
                        .push(format!("line {at} says that it follows on another entry {after} than the head has"));
                } else if after > chain.last {
                    compared
                        .wrong
                        .push(format!("line {at} says that it follows on entry {after}, which is not on the head"));
                }
                continue;
            }
            Err(error) => {
                compared.wrong.push(format!("line {at} is none of the log: {error}"));
                continue;
            }
        };
        let number = link.number;
        let follows = follows.take();
        if link.hash() != hash {
            compared.wrong.push(format!("line {at}, entry {number}, was changed: its hash is another one"));
            continue;
        }
        if let Some((after, before)) = follows {
            let next = after.saturating_add(1);
            let is_next = number == next && link.before == before;
            // What expired before it could be copied is not on the head either.
            let has_lost = number > next && number <= chain.first;
            if !is_next && !has_lost {
                compared.wrong.push(format!(
                    "line {at}, entry {number}, does not follow on entry {after}, as the copy says before"
                ));
            }
        }
        match hashes.get(&number) {
            Some(own) if *own == hash => compared.same += 1,
            Some(_) => compared.wrong.push(format!("line {at}, entry {number}, is another one on the head")),
            None if number < chain.first => compared.expired += 1,
            None => compared.wrong.push(format!("line {at}, entry {number}, is not on the head")),
        }
    }
    compared
}

/// Follows the chain from its beginning to its end, and compares a copy with it.
pub async fn verify(copy: Option<&Path>, place: &Place, json: bool) -> Result<Exit> {
    let copy =
        copy.map(|path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())));
    let copy = copy.transpose()?;
    let client = Client::of(place)?;
    let mut page = client.audit_chain(0).await?;
    let (mut follower, mut hashes) = (Follower::of(&page.chain), BTreeMap::new());
    loop {
        for link in &page.links {
            follower.takes(link);
            if copy.is_some() {
                hashes.insert(link.number, link.hash());
            }
        }
        if page.next >= page.chain.last {
            break;
        }
        page = client.audit_chain(page.next).await?;
    }
    let verdict = follower.ends(&page.chain);
    let found = Found { copy: copy.map(|copy| compare(&copy, &hashes, &page.chain)), verdict };
    let wrong = found.copy.as_ref().map(|copy| copy.wrong.as_slice()).unwrap_or_default();
    let is_whole = found.verdict.broken.is_empty() && wrong.is_empty();
    if json {
        screen::json(&found)?;
    } else {
        let chained = found.verdict.chained;
        println!("{chained} {}, each chained to the one before", if chained == 1 { "entry" } else { "entries" });
        if found.verdict.unchained > 0 {
            println!("{} before them are of a release that chained none", found.verdict.unchained);
        }
        if let Some(head) = &found.verdict.head {
            println!("the last one's hash is {head}");
        }
        if let Some(Compared { same, expired, .. }) = &found.copy {
            println!("{same} of the copy are the head's; {expired} of it have expired there");
        }
        let all: Vec<String> = found.verdict.broken.iter().map(said).chain(wrong.iter().cloned()).collect();
        all.iter().take(MOST).for_each(|what| println!("  {what}"));
        match all.len() {
            0 => println!("nothing is missing, and nothing was changed"),
            many if many > MOST => println!("  and {} more", many - MOST),
            _ => {}
        }
    }
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

impl Client {
    /// What has come since this position; without one, where that is now.
    async fn audit_news(&self, after: Option<Position>, wait: u64) -> Result<bramble_model::audit::News> {
        let query = after.map_or_else(String::new, |Position { link, refusal }| {
            format!("?link={link}&refusal={refusal}&wait={wait}")
        });
        self.get(&format!("/v1/audit/news{query}")).await
    }

    async fn audit(&self, last: usize) -> Result<Vec<Entry>> {
        self.get(&format!("/v1/audit?last={last}")).await
    }

    async fn audit_chain(&self, after: u64) -> Result<bramble_model::audit::Page> {
        self.get(&format!("/v1/audit/chain?after={after}")).await
    }
}

#[cfg(test)]
mod tests {
    use bramble_model::audit::{Folded, Link, Step};

    use super::*;

    fn links(count: u64) -> (Chain, Vec<Link>) {
        let mut chain = Chain::new(1);
        let links = (0..count).map(|at| {
            let step = Step::Did { who: "ann".into(), from: "local".into(), what: "x".into(), result: "done".into() };
            let link = chain.next(at, step);
            chain.takes(&link);
            link
        });
        let links = links.collect();
        (chain, links)
    }

    fn copy(links: impl IntoIterator<Item = Link>) -> String {
        links.into_iter().map(|link| serde_json::to_string(&Copied::of(link)).expect("plain data") + "\n").collect()
    }

    #[test]
    fn a_copy_says_which_entries_were_changed_on_the_head_or_in_it() {
        let (mut chain, links) = links(6);
        let hashes = |links: &[Link]| links.iter().map(|link| (link.number, link.hash())).collect::<BTreeMap<_, _>>();
        let all = copy(links.clone());
        assert_eq!(compare(&all, &hashes(&links), &chain), Compared { same: 6, ..Compared::default() });
        chain.first = 3;
        let kept = hashes(&links[2..]);
        assert_eq!(compare(&all, &kept, &chain), Compared { same: 4, expired: 2, wrong: Vec::new() });
        let meddled = all.replacen("\"number\":4,\"at\":3", "\"number\":4,\"at\":9", 1) + "torn\n";
        let wrong = compare(&meddled, &kept, &chain).wrong;
        assert!(wrong.len() == 2 && wrong[0].starts_with("line 4, entry 4, was changed"), "{wrong:?}");
        let mut other = links.clone();
        other[4].at = 99;
        let wrong = compare(&all, &hashes(&other[2..5]), &chain).wrong;
        assert_eq!(wrong, ["line 5, entry 5, is another one on the head", "line 6, entry 6, is not on the head"]);
    }

    /// An old place is taken out of `[audit]`, and another one named, while something is done that nobody is to see.
    #[test]
    fn a_copy_that_begins_later_says_what_it_follows_on() {
        let (chain, links) = links(6);
        let hashes: BTreeMap<_, _> = links.iter().map(|link| (link.number, link.hash())).collect();
        let begins = |hash| {
            let begins = Begins { at: 7, after: 3, hash, instead_of: Some("/var/log/old".into()) };
            serde_json::to_string(&Copied::Begins(begins)).expect("plain data") + "\n"
        };
        let rest = copy(links[3..].to_vec());
        let whole = compare(&(begins(Some(links[2].hash())) + &rest), &hashes, &chain);
        assert_eq!(whole, Compared { same: 3, ..Compared::default() });
        let other = compare(&(begins(Some(Digest([9; 32]))) + &rest), &hashes, &chain);
        assert_eq!(other.wrong, ["line 1 says that it follows on another entry 3 than the head has"]);
        let none = compare(&(begins(None) + &rest), &hashes, &chain);
        assert_eq!(none.wrong, ["line 1 says that it follows on another entry 3 than the head has"]);
        // An entry is taken out of the copy behind that line, or what the line names is none of the head's.
        let torn = compare(&(begins(Some(links[2].hash())) + &copy(links[4..].to_vec())), &hashes, &chain);
        assert_eq!(torn.wrong, ["line 2, entry 5, does not follow on entry 3, as the copy says before"]);
        let late = Begins { at: 7, after: 9, hash: Some(Digest([9; 32])), instead_of: None };
        let late = serde_json::to_string(&Copied::Begins(late)).expect("plain data") + "\n";
        let late = compare(&late, &hashes, &chain);
        assert_eq!(late.wrong, ["line 1 says that it follows on entry 9, which is not on the head"]);
    }

    /// What the line follows on has expired on the head, and so have entries that could not be copied in time.
    #[test]
    fn a_copy_that_begins_with_what_has_expired_is_held_to_its_own_word() {
        let (mut chain, links) = links(6);
        chain.first = 5;
        let hashes: BTreeMap<_, _> = links[4..].iter().map(|link| (link.number, link.hash())).collect();
        let begins = |hash| {
            let begins = Begins { at: 7, after: 2, hash: Some(hash), instead_of: None };
            serde_json::to_string(&Copied::Begins(begins)).expect("plain data") + "\n"
        };
        let wrong = |hash, from: usize| compare(&(begins(hash) + &copy(links[from..].to_vec())), &hashes, &chain).wrong;
        assert_eq!(wrong(links[1].hash(), 2), [""; 0]);
        assert_eq!(wrong(links[1].hash(), 4), [""; 0], "3 and 4 were lost");
        assert_eq!(wrong(Digest([9; 32]), 2), ["line 2, entry 3, does not follow on entry 2, as the copy says before"]);
        assert_eq!(wrong(links[1].hash(), 5), ["line 2, entry 6, does not follow on entry 2, as the copy says before"]);
    }

    #[test]
    fn what_was_folded_says_how_often() {
        let mut entry = Entry {
            number: 1,
            at: bramble_system::now(),
            who: "someone".into(),
            from: "10.77.0.9".into(),
            what: "log in".into(),
            result: "refused: the name or the password is wrong".into(),
            folded: Some(Folded { times: 1, last: bramble_system::now() }),
        };
        assert_eq!(row(&entry)[4], entry.result);
        entry.folded = Some(Folded { times: 70, last: bramble_system::now() });
        assert!(row(&entry)[4].contains("(70 times since "), "{:?}", row(&entry));
    }
}
