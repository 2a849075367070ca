//! What people see: errors, warnings, tables, and a line for each node on its way.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr, stdout};
use std::time::Duration;

use bramble_head::backup::Unusable;
use bramble_model::api::{NodeStatus, Status};
use bramble_model::names::Name;
use bramble_model::repository::{Cluster, Problems};
use bramble_model::said::plain;
use bramble_model::timeline::{Millis, Phase};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::terminal;

/// Prints an error with its causes and what to do.
pub fn error(error: &anyhow::Error, json: bool) {
    if json {
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let mut told = serde_json::json!({ "error": error.to_string(), "causes": causes });
        if let Some(problems) = error.downcast_ref::<Problems>() {
            told = serde_json::json!({ "problems": problems });
        }
        println!("{}", terminal::escaped(&format!("{told:#}")));
        return;
    }
    if let Some(problems) = error.downcast_ref::<Problems>() {
        terminal::coloured(&problems.render(stderr().is_terminal()));
        return;
    }
    eprintln!("bramble: {error}");
    let mut before = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat their cause in their own sentence.
        if !before.contains(&text) {
            eprintln!("  because: {text}");
        }
        before = text;
    }
    if let Some(help) = help(error) {
        eprintln!("  help: {help}");
    }
}

fn help(error: &anyhow::Error) -> Option<String> {
    let image = error.downcast_ref::<bramble_image::Error>().and_then(bramble_image::Error::help);
    let head = || error.downcast_ref::<bramble_head::Error>().and_then(bramble_head::Error::help).map(str::to_owned);
    let restored = || error.downcast_ref::<Unusable>().and_then(Unusable::help).map(str::to_owned);
    let seal = || error.downcast_ref::<bramble_seal::Error>().and_then(bramble_seal::Error::help).map(str::to_owned);
    let lab = || error.downcast_ref::<bramble_lab::Error>().and_then(bramble_lab::Error::help).map(str::to_owned);
    image.or_else(head).or_else(restored).or_else(seal).or_else(lab)
}

pub fn warnings(warnings: &Problems) {
    terminal::coloured(&warnings.render(stderr().is_terminal()));
}

/// What is wrong with a repository that can be applied all the same.
pub fn reservations(cluster: &Cluster) {
    let sick = cluster.sick();
    for problems in [&cluster.warnings, &sick] {
        if !problems.0.is_empty() {
            warnings(problems);
        }
    }
    if !sick.0.is_empty() {
        let names = cluster.workloads.iter().filter(|(_, workload)| workload.problem.is_some());
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        eprintln!("what runs of {} stays as it is until its file is corrected; all else goes on", names.join(", "));
    }
}

/// What an answer does not have, beside what it has.
pub fn lacks(records: usize) {
    let records = counted(records, "record");
    eprintln!("{records} more cannot be read: `bramble store repair` names what, and sets it aside");
}

/// `1 node`, `2 nodes`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// As many of these as a line takes, and how many more there are.
pub fn few(all: &[impl AsRef<str>], separator: &str) -> String {
    const MOST: usize = 5;
    let named: Vec<&str> = all.iter().take(MOST).map(AsRef::as_ref).collect();
    let named = named.join(separator);
    if all.len() > MOST { format!("{named}{separator}and {} more", all.len() - MOST) } else { named }
}

/// Prints `value` as JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", terminal::escaped(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// A table with columns as wide as they need.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let count = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| count(&row[column])).chain([count(head[column])]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    line(head.to_vec()) + &body.collect::<String>()
}

/// `1.2 s` from milliseconds.
pub fn seconds(milliseconds: Millis) -> String {
    format!("{:.1} s", milliseconds as f64 / 1000.0)
}

/// `123.4 MB` from bytes.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// How long ago, in the largest unit that says enough.
pub fn ago(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// The state of a node in a word or two.
pub fn state(node: &NodeStatus) -> String {
    match (node.phase, node.percent) {
        (Phase::Root, Some(percent)) => format!("root {percent} %"),
        (Phase::Ready, _) if !node.connected => "ready, connection lost".into(),
        (phase, _) => phase.as_str().into(),
    }
}

/// One line for each node on its way: redrawn on a terminal, else a line at each change.
pub struct Progress {
    lines: Option<(MultiProgress, BTreeMap<Name, ProgressBar>)>,
    told: BTreeMap<Name, String>,
    quiet: bool,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let lines = (!quiet && stdout().is_terminal()).then(|| (MultiProgress::new(), BTreeMap::new()));
        Progress { lines, told: BTreeMap::new(), quiet }
    }

    pub fn show(&mut self, status: &Status) {
        for node in &status.nodes {
            let start = node.times.first().map_or(status.at, |(_, at)| *at);
            let end = node.times.iter().find(|(phase, _)| *phase == Phase::Ready).map_or(status.at, |(_, at)| *at);
            let line = line(node);
            let elapsed = seconds(end.saturating_sub(start));
            match &mut self.lines {
                Some((screen, bars)) => {
                    let bar = bars.entry(node.name.clone()).or_insert_with(|| {
                        let style =
                            ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
                        screen.add(ProgressBar::new(1).with_style(style))
                    });
                    bar.set_message(format!("{line}  {elapsed}"));
                }
                None if !self.quiet && self.told.get(&node.name) != Some(&line) => {
                    println!("{line}  {elapsed}");
                    self.told.insert(node.name.clone(), line);
                }
                None => {}
            }
        }
    }

    pub fn end(self) {
        if let Some((_, bars)) = self.lines {
            for bar in bars.values() {
                bar.abandon();
            }
        }
    }
}

/// The longest line of a node on its way, in bytes.
const LONGEST_LINE: usize = 4096;

/// `m1  firmware → loader → kernel → root 63 %`
fn line(node: &NodeStatus) -> String {
    let mut words: Vec<String> = node
        .times
        .iter()
        .filter(|(phase, _)| *phase < node.phase)
        .map(|(phase, _)| phase.as_str().to_owned())
        .collect();
    words.push(state(node));
    let failure = node.failure.as_ref().map(|failure| format!("  ! {failure}")).unwrap_or_default();
    // It is drawn by others than [`terminal`].
    plain::line(&format!("{:<8} {}{failure}", node.name, words.join(" → ")), LONGEST_LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_a_few_names_and_says_how_many_more_there_are() {
        let names: Vec<String> = (1..=10_000).map(|number| format!("node w{number} is new")).collect();
        assert_eq!(few(&names[..2], "; "), "node w1 is new; node w2 is new");
        assert!(few(&names[..5], "; ").ends_with("; node w5 is new"));
        assert!(few(&names, "; ").ends_with("; node w5 is new; and 9995 more"), "{}", few(&names, "; "));
        assert_eq!(few(&names[..0], "; "), "");
    }

    #[test]
    fn one_is_no_several() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "node")), ["0 nodes", "1 node", "2 nodes"]);
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let rows = vec![vec!["m1".into(), "ready".into()], vec!["worker-1".into(), "root 63 %".into()]];
        assert_eq!(table(&["NODE", "STATE"], &rows), "NODE      STATE\nm1        ready\nworker-1  root 63 %\n");
    }
}
