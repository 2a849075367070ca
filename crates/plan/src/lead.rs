//! Nodes that obey another life of the head's store than this head's: what is said of them, and what a person does.

use std::collections::BTreeMap;

use bramble_model::agent::Refuses;
use bramble_model::names::Name;

/// For each of them, and for all.
pub(crate) const ADVICE: &str = "end this head where another has taken its place; else set its clock and put a backup \
                                 of it back (`bramble backup`, `bramble restore`), which begins a newer life; or, for \
                                 single nodes, remove /var/lib/bramble/lead.json there and boot them anew";

/// What is wrong, by the names of all that refuse a head's lead in the same way.
pub fn problems<'a>(refusing: impl Iterator<Item = (&'a Name, Refuses)>) -> Vec<String> {
    let mut alike: BTreeMap<Refuses, Vec<&str>> = BTreeMap::new();
    for (name, refuses) in refusing {
        alike.entry(refuses).or_default().push(name.as_str());
    }
    let sentence = |(Refuses { life, obeys }, names): (Refuses, Vec<&str>)| {
        let names = names.join(", ");
        format!("this head's lead is refused: its store is in life {life}, and {names} obey life {obeys}. {ADVICE}")
    };
    alike.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_was_replaced_is_one_problem_whatever_the_number_of_its_nodes() {
        let names = ["m1", "w1", "w2"].map(|name| name.parse::<Name>().expect("a name"));
        let refuses = |obeys| Refuses { life: 100, obeys };
        let problems = problems(names.iter().zip([refuses(200), refuses(201), refuses(200)]));
        let told = |names: &str, obeys| {
            format!("this head's lead is refused: its store is in life 100, and {names} obey life {obeys}. {ADVICE}")
        };
        assert_eq!(problems, [told("m1, w2", 200), told("w1", 201)]);
        assert!(super::problems(std::iter::empty()).is_empty());
    }
}
