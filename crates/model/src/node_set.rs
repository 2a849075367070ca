//! Sets of nodes, as they are written on a command line: `w1`, `w[1-3,7]`, `w*`, `role:worker`, `all`,
//! `!w2`; several with commas or spaces between.

use std::collections::BTreeSet;

use crate::names::Name;
use crate::repository::Node;

/// The most names that one pair of brackets stands for.
const MOST: u32 = 10_000;

/// Why a set is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("`{term}`: {problem}")]
    Term { term: String, problem: String },
    #[error("there is no node `{name}`{}", meant(.like.as_deref()))]
    NoNode { name: String, like: Option<String> },
    #[error("no node has the role `{role}`{}", meant(.like.as_deref()))]
    NoRole { role: String, like: Option<String> },
    #[error("`{0}` names no node that is left")]
    Empty(String),
}

fn meant(like: Option<&str>) -> String {
    like.map(|like| format!(": did you mean `{like}`?")).unwrap_or_default()
}

/// The word that is most like this one, where one is.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let scored = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let best = scored.filter(|(score, _)| *score > 0.8).max_by(|one, other| one.0.total_cmp(&other.0))?;
    Some(best.1.to_owned())
}

/// The nodes that `text` names, sorted. Terms with `!` take away, in any order; where there is nothing else,
/// they take away from all.
///
/// # Errors
/// When a term is malformed, or names nothing, or nothing is left.
pub fn select<'a>(text: &str, nodes: impl IntoIterator<Item = (&'a Name, &'a Node)>) -> Result<BTreeSet<Name>, Wrong> {
    let nodes: Vec<(&Name, &str)> = nodes.into_iter().map(|(name, node)| (name, node.role.as_str())).collect();
    let (mut named, mut without) = (BTreeSet::new(), BTreeSet::new());
    let mut only_without = true;
    for term in terms(text) {
        match term.strip_prefix('!') {
            Some(term) => without.extend(one(term, &nodes)?),
            None => {
                only_without = false;
                named.extend(one(term, &nodes)?);
            }
        }
    }
    if only_without {
        named = nodes.iter().map(|(name, _)| (*name).clone()).collect();
    }
    let left: BTreeSet<Name> = named.difference(&without).cloned().collect();
    if left.is_empty() { Err(Wrong::Empty(text.to_owned())) } else { Ok(left) }
}

/// Splits at commas and spaces that are not within brackets.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        depth <= 0 && (c == ',' || c.is_whitespace())
    })
    .filter(|term| !term.is_empty())
}

fn one(term: &str, nodes: &[(&Name, &str)]) -> Result<Vec<Name>, Wrong> {
    let all = || nodes.iter().map(|(name, _)| (*name).clone());
    if term == "all" {
        return Ok(all().collect());
    }
    if let Some(role) = term.strip_prefix("role:") {
        let found: Vec<Name> = nodes.iter().filter(|(_, own)| *own == role).map(|(name, _)| (*name).clone()).collect();
        if found.is_empty() {
            let like = nearest(role, nodes.iter().map(|(_, role)| *role));
            return Err(Wrong::NoRole { role: role.to_owned(), like });
        }
        return Ok(found);
    }
    if let Some((start, end)) = term.split_once('*') {
        let fits = |name: &Name| {
            let name = name.as_str();
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        };
        let found: Vec<Name> = all().filter(fits).collect();
        return if found.is_empty() { Err(Wrong::NoNode { name: term.to_owned(), like: None }) } else { Ok(found) };
    }
    let mut found = Vec::new();
    for name in expand(term)? {
        match nodes.iter().find(|(known, _)| known.as_str() == name) {
            Some((known, _)) => found.push((*known).clone()),
            None => {
                let like = nearest(&name, nodes.iter().map(|(name, _)| name.as_str()));
                return Err(Wrong::NoNode { name, like });
            }
        }
    }
    Ok(found)
}

/// `w[1-3,7]b` is `w1b`, `w2b`, `w3b` and `w7b`; `w[08-10]` keeps its zeros.
fn expand(term: &str) -> Result<Vec<String>, Wrong> {
    let wrong = |problem: &str| Wrong::Term { term: term.to_owned(), problem: problem.to_owned() };
    let Some((start, rest)) = term.split_once('[') else {
        return if term.contains(']') { Err(wrong("a bracket opens nowhere")) } else { Ok(vec![term.to_owned()]) };
    };
    let (inside, end) = rest.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
    if end.contains(['[', ']']) {
        return Err(wrong("one pair of brackets at most"));
    }
    let mut names = Vec::new();
    for part in inside.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number =
            |text: &str| text.parse::<u32>().map_err(|_| wrong("expected numbers in brackets, such as w[1-3,7]"));
        let (from, to) = (number(first)?, number(last)?);
        if from > to {
            return Err(wrong("its range runs backwards"));
        }
        if to - from >= MOST {
            return Err(wrong("its range is too long"));
        }
        let width = first.len();
        names.extend((from..=to).map(|number| format!("{start}{number:0width$}{end}")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Cluster;
    use proptest::prelude::*;

    fn cluster() -> Cluster {
        let mut text = String::from(
            "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.manager]\nengine = \"manager\"\n[roles.worker]\nengine = \"worker\"\n",
        );
        for (index, name) in ["m1", "w1", "w2", "w3", "w08", "w10"].iter().enumerate() {
            let role = if name.starts_with('m') { "manager" } else { "worker" };
            text += &format!("[nodes.{name}]\nmac = \"52:54:00:00:00:{index:02}\"\nrole = \"{role}\"\n");
        }
        let place = std::path::Path::new("/nowhere");
        Cluster::parse(place, &place.join("bramble.toml"), &text).expect("valid")
    }

    fn select(text: &str) -> Result<Vec<String>, String> {
        let found = super::select(text, &cluster().nodes);
        found.map(|names| names.iter().map(Name::to_string).collect()).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn sets_as_people_write_them() {
        for (text, wanted) in [
            ("w1", "w1"),
            ("w[1-3]", "w1 w2 w3"),
            ("w[1,3],m1", "m1 w1 w3"),
            ("w[08-10] w1", ""),
            ("w[08-08,10]", "w08 w10"),
            ("w*", "w08 w1 w10 w2 w3"),
            ("role:manager", "m1"),
            ("all,!w2", "m1 w08 w1 w10 w3"),
            ("!w*", "m1"),
            ("!m1 w1", "w1"),
        ] {
            match select(text) {
                Ok(found) => assert_eq!(found.join(" "), wanted, "{text}"),
                Err(wrong) => assert!(wanted.is_empty(), "{text}: {wrong}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wanted) in [
            ("w4x", "there is no node `w4x`"),
            ("M1", "there is no node `M1`"),
            ("role:workr", "no node has the role `workr`: did you mean `worker`?"),
            ("w[3-1]", "`w[3-1]`: its range runs backwards"),
            ("w[1", "`w[1`: a bracket is not closed"),
            ("w1]", "`w1]`: a bracket opens nowhere"),
            ("w[a-b]", "`w[a-b]`: expected numbers in brackets, such as w[1-3,7]"),
            ("w[0-99999999]", "`w[0-99999999]`: its range is too long"),
            ("w1,!w1", "`w1,!w1` names no node that is left"),
        ] {
            let wrong = select(text).expect_err(text);
            assert!(wrong.starts_with(wanted), "{text}: {wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", brackets in r"[w\[\]0-9,!:*-]{0,20}") {
            let _ = select(&text);
            let _ = select(&brackets);
        }
    }
}
