//! When the git repository is looked at, and what keeps the head from following it.

use std::fmt;

use bramble_model::repository::Source as Declared;
use bramble_model::section::{Ends, Risk};
use bramble_model::source::short;
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

use crate::contract::{Plan, Planned, Planner};

/// What is known of following.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// When it was looked at last, whatever came of that.
    pub looked: Option<Millis>,
    /// A person wants it looked at now.
    pub asked: Option<Millis>,
    /// Why it is not followed, since when and by whose word.
    pub held: Option<String>,
    /// What is wrong with the way to the repository, and what to do; the present snapshot stays.
    pub problem: Option<(String, String)>,
    /// The newest commit, where that is not current.
    pub newest: Option<Newest>,
}

/// The newest commit, as it was found: it did not become current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    pub commit: String,
    pub obstacle: Obstacle,
}

/// Why a commit did not become current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// It checks, and does what only a person may.
    Braked(Vec<String>),
    /// It does not check.
    Unfit(String),
}

/// What a person does about a commit that cannot be.
pub const CORRECT: &str = "correct it and push; the present snapshot stays";

impl Newest {
    /// Why it waits for a person, where it does.
    #[must_use]
    pub fn braked(&self) -> Option<&[String]> {
        match &self.obstacle {
            Obstacle::Braked(reasons) => Some(reasons),
            Obstacle::Unfit(_) => None,
        }
    }

    /// What is wrong with it, where it does not check.
    #[must_use]
    pub fn unfit(&self) -> Option<&str> {
        match &self.obstacle {
            Obstacle::Unfit(reason) => Some(reason),
            Obstacle::Braked(_) => None,
        }
    }

    /// What is in its way.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.obstacle {
            Obstacle::Braked(reasons) => {
                format!("commit {} waits for a person: {}", short(&self.commit), reasons.join("; "))
            }
            Obstacle::Unfit(reason) => reason.clone(),
        }
    }

    /// Who ends that, and how.
    fn help(&self) -> String {
        match &self.obstacle {
            Obstacle::Braked(_) => format!("`bramble apply --yes {}` lets it through", short(&self.commit)),
            Obstacle::Unfit(_) => CORRECT.into(),
        }
    }
}

/// Looks at the repository, and follows it where it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look;

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is looked at")
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Source;

impl Planner for Source {
    type Declared = Option<Declared>;
    /// The second is the time of the observation: a look that is foreseen is of then.
    type Observed = (Observed, Millis);
    type Step = Look;
    type Seen = ();

    fn plan(&self, declared: &Option<Declared>, (observed, _): &Self::Observed, now: Millis) -> Plan<Look, ()> {
        let mut plan = Plan::default();
        let Some(declared) = declared else { return plan };
        let wanted = observed.asked.is_some_and(|asked| observed.looked.is_none_or(|looked| looked < asked));
        if let (Some(held), false) = (&observed.held, wanted) {
            plan.wait(Subject::Source, held.clone(), Ends::Person("`bramble sync` follows it again".into()));
            return plan;
        }
        // Also while it is looked at: a server may be silent for long.
        let newest = observed.newest.as_ref().map(|newest| (newest.sentence(), newest.help()));
        for (reason, help) in newest.into_iter().chain(observed.problem.clone()) {
            plan.wait(Subject::Source, reason, Ends::Person(help));
        }
        let next = observed.looked.map_or(0, |looked| looked + Millis::from(declared.every) * 1000);
        if wanted || next <= now {
            let reason = match (wanted, observed.looked) {
                (true, _) => "a person asked for it".into(),
                (false, None) => "the head has just started".into(),
                (false, Some(looked)) => format!("it was seen {} s ago", now.saturating_sub(looked) / 1000),
            };
            plan.steps.push(Planned { subject: Subject::Source, seen: (), reason, risk: Risk::Safe, step: Look });
        } else {
            plan.wait(Subject::Source, "it is looked at again", Ends::At(next));
        }
        plan
    }

    fn foresee(&self, (observed, at): &mut Self::Observed, _: &Look) {
        observed.looked = Some(observed.asked.map_or(*at, |asked| asked.max(*at)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::{self, foresee};

    fn declared() -> Declared {
        Declared {
            git: "/srv/home.git".into(),
            branch: "main".into(),
            every: 30,
            path: String::new(),
            signers: Vec::new(),
            token_file: None,
        }
    }

    fn text(observed: Observed, now: Millis) -> String {
        contract::text(&Source.plan(&Some(declared()), &(observed, now), now))
    }

    #[test]
    fn what_keeps_it_from_following_is_said() {
        let seen = Observed { looked: Some(100_000), ..Observed::default() };
        let held = Observed { held: Some("held since Monday by ann".into()), ..seen.clone() };
        let newest = |commit: &str, obstacle| Some(Newest { commit: commit.repeat(40), obstacle });
        let braked = newest("a", Obstacle::Braked(vec!["it lets 9 of 9 nodes go".into()]));
        let unfit = newest("b", Obstacle::Unfit("commit bbbbbbbbbbbb: bramble.toml, line 3, it says nothing".into()));
        let problem = Some(("its server is away".into(), "the head tries again".into()));
        insta::assert_snapshot!(
            [
                text(Observed::default(), 5),
                text(seen.clone(), 110_000),
                text(seen.clone(), 130_000),
                text(held.clone(), 999_000),
                text(Observed { asked: Some(120_000), ..held }, 120_000),
                text(Observed { newest: braked.clone(), ..seen.clone() }, 110_000),
                text(Observed { newest: braked.clone(), looked: None, ..seen.clone() }, 110_000),
                text(Observed { problem: problem.clone(), ..seen.clone() }, 110_000),
                text(Observed { newest: braked, problem: problem.clone(), ..seen.clone() }, 110_000),
                text(Observed { newest: unfit, problem, ..seen }, 130_000),
            ]
            .join("\n")
        );
    }

    proptest! {
        #[test]
        fn it_comes_to_rest_and_says_until_when(looked in prop::option::of(0..200_000_u64), asked in prop::option::of(0..200_000_u64), held: bool, now in 0..200_000_u64) {
            let observed = Observed { looked, asked: asked.filter(|asked| *asked <= now), held: held.then(|| "held".into()), ..Observed::default() };
            let mut world = (observed, now);
            let plan = foresee(&Source, &Some(declared()), world.clone(), now);
            prop_assert!(plan.steps.len() <= 1);
            plan.steps.iter().for_each(|planned| Source.foresee(&mut world, &planned.step));
            let rest = Source.plan(&Some(declared()), &world, now);
            prop_assert_eq!(rest.steps, vec![]);
            prop_assert!(!rest.waits.is_empty());
            for wait in rest.waits {
                prop_assert!(!matches!(wait.ends, Ends::At(at) if at <= now));
            }
            prop_assert!(Source.plan(&None, &world, now).steps.is_empty());
        }
    }
}
