//! Who may hold the Swarm's state, whatever the repository has it as today, and who is asked of it.

use super::*;

/// What a node that may hold a Swarm's state means for one that may be begun.
pub(super) enum Holder {
    /// It holds nothing that anyone wants: it belongs to none, or to one that was given up.
    Blank { leaves: Option<ClusterId> },
    /// It is a worker, which holds nothing of its Swarm's state.
    Worker,
    /// It holds this Swarm's state.
    Holds { cluster: ClusterId, reachable: bool },
    /// What it holds is not known.
    Away { why: Why, ends: Ends },
}

/// Why it is not known what a node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Off,
    Boots,
    Starts,
    /// It belongs to a Swarm, and who its managers are is not known.
    WorkerOfAnother,
    /// It has not heard of its part yet.
    Unheard,
    /// It has no part any more, and so does not say what it has.
    WithoutPart,
    NotDeclared,
    /// It obeys another life of the head's store, and would begin nothing for this head.
    Refuses,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Off => "is not here yet",
            Why::Boots => "boots",
            Why::Starts => "starts its Docker",
            Why::WorkerOfAnother => "is a worker of a Swarm",
            Why::Unheard => "has not heard of its part in the Swarm",
            Why::WithoutPart => "has no part in the Swarm any more, and does not say what it holds",
            Why::NotDeclared => "is not in the repository any more",
            Why::Refuses => "refuses this head's lead",
        })
    }
}

/// Who may be asked of the remembered Swarm, the best first. No node is by its own word: it says that it is a manager,
/// *and* the repository has it as one, or the head has written down that it was made one.
///
/// Of these, the first kind of which anyone has a majority is asked, and no other: what an old manager says must not win
/// over one of today's by being faster.
///
/// 1. what the repository has as a manager, and the head has made one;
/// 2. what the head has made one, and the repository has as something else today: it hands over;
/// 3. what the repository has as a manager, and nobody has written down: the head may have forgotten.
pub fn to_ask(declared: &Declared, record: &Record, engine_of: impl Fn(&Name) -> Option<EngineState>) -> Vec<Name> {
    let Some(cluster) = record.cluster() else { return Vec::new() };
    let may = declared.nodes.iter().filter_map(|(name, part)| match (part, record.made_manager(name)) {
        (EnginePart::Manager, true) => Some((1, name)),
        (EnginePart::Worker | EnginePart::None, true) => Some((2, name)),
        (EnginePart::Manager, false) => Some((3, name)),
        (EnginePart::Worker | EnginePart::None, false) => None,
    });
    let holding = may.filter_map(|(rank, name)| match engine_of(name)? {
        EngineState::Member { cluster: own, manager: true, reachable, .. } if own == *cluster => {
            Some((!reachable, rank, name))
        }
        _ => None,
    });
    let mut holding: Vec<(bool, u8, &Name)> = holding.collect();
    holding.sort_unstable();
    let first = holding.first().map(|(silent, rank, _)| (*silent, *rank));
    let asked = |(silent, rank, _): &&(bool, u8, &Name)| first.is_some_and(|best| best.0 || best == (*silent, *rank));
    holding.iter().filter(asked).map(|(.., name)| (*name).clone()).collect()
}

impl Look<'_> {
    /// Whoever may hold the state of the remembered Swarm, as it is: declared managers, and whoever has been one. Where
    /// nobody wrote down who has, it may be any node with a part.
    pub(super) fn may_hold(&self) -> Vec<(&Name, Node)> {
        let record = &self.observed.record;
        let unwritten = match &record.memory {
            Memory::Never | Memory::Begun { .. } => false,
            Memory::Lost | Memory::Swarm { .. } => record.managers.is_empty(),
        };
        let told = match &record.memory {
            Memory::Begun { node } => Some(node),
            Memory::Never | Memory::Lost | Memory::Swarm { .. } => None,
        };
        let may = |part: &EnginePart| *part == EnginePart::Manager || unwritten && *part != EnginePart::None;
        let declared = self.declared.nodes.iter().filter(|(_, part)| may(part)).map(|(name, _)| name);
        let all: BTreeSet<&Name> = declared.chain(&record.managers).chain(told).collect();
        all.into_iter().map(|name| (name, self.node(name))).collect()
    }

    /// What a node that may hold the state has of it.
    pub(super) fn holder(&self, name: &Name, node: &Node) -> Holder {
        let away = |why, act: String| Holder::Away { why, ends: Ends::Person(act) };
        let comes = |why| Holder::Away { why, ends: Ends::ByItself };
        let Some(part) = self.declared.nodes.get(name) else {
            return away(Why::NotDeclared, format!("bring {name} back into the repository"));
        };
        let blank = |leaves| match node.refuses {
            None => Holder::Blank { leaves },
            Some(_) => away(Why::Refuses, lead::ADVICE.into()),
        };
        match &node.engine {
            Some(EngineState::Alone) => blank(None),
            Some(EngineState::Member { cluster, .. }) if self.is_former(cluster) => blank(Some(cluster.clone())),
            Some(EngineState::Member { cluster, manager: true, reachable, .. }) => {
                Holder::Holds { cluster: cluster.clone(), reachable: *reachable }
            }
            // It says that there is one, and nobody knows of its managers.
            Some(EngineState::Member { cluster, .. })
                if *part == EnginePart::Manager && self.observed.record.cluster() != Some(cluster) =>
            {
                let act = format!("`bramble engine give-up swarm {cluster}`, if its managers are gone for good");
                away(Why::WorkerOfAnother, act)
            }
            Some(EngineState::Member { .. }) => Holder::Worker,
            Some(EngineState::Starting { .. }) => comes(Why::Starts),
            Some(EngineState::None) if *part == EnginePart::None => {
                away(Why::WithoutPart, format!("give {name} a part in the Swarm again"))
            }
            Some(EngineState::None) => comes(Why::Unheard),
            None if node.boots => comes(Why::Boots),
            None => away(Why::Off, format!("switch {name} on")),
        }
    }

    /// As a person knows it.
    pub(super) fn called(&self, name: &Name) -> String {
        if self.is_manager(name) {
            format!("manager {name}")
        } else {
            format!("{name}, which may have been a manager,")
        }
    }

    /// Whether it counts that this node holds this Swarm: nobody becomes a manager of the cluster by saying so.
    pub(super) fn counts(&self, name: &Name, cluster: &ClusterId) -> bool {
        let record = &self.observed.record;
        self.is_manager(name)
            || record.made_manager(name) && record.cluster().is_none_or(|remembered| remembered == cluster)
    }

    /// Whoever may hold the Swarm's state from now on: declared managers, and old ones. The names of a listing are what its
    /// members say of themselves: they alone write nobody down, and take nobody off the record. Where one that is no manager
    /// any more says what it has, nobody comes or goes by that.
    pub(super) fn managers_of(&self, through: &Name, listing: &Listing) -> BTreeSet<Name> {
        let is_heard = self.is_manager(through);
        let recorded = self.observed.record.managers.iter();
        let stay = recorded.filter(|name| !is_heard || self.may_be_one_still(name, listing));
        let come = self.listed_as_one(listing).filter(|_| is_heard);
        self.managers().into_iter().map(|(name, _)| name).chain(stay).chain(come).cloned().collect()
    }

    /// The same, before it was listed.
    pub(super) fn managers_with(&self, cluster: &ClusterId) -> BTreeSet<Name> {
        let holding = self.holding(cluster);
        self.managers().into_iter().map(|(name, _)| name).chain(holding).cloned().collect()
    }

    /// Why a Swarm that is remembered has no manager that could be asked.
    pub(super) fn without_manager(&self, cluster: &ClusterId) -> String {
        let holding = self.holding(cluster);
        if holding.is_empty() {
            format!("no manager of Swarm {cluster} is here")
        } else {
            format!("Swarm {cluster} has no leader: {} alone is no majority of its managers", list(&holding))
        }
    }

    fn holding(&self, cluster: &ClusterId) -> Vec<&Name> {
        let all = self.say_they_hold(cluster).into_iter();
        all.filter(|name| self.counts(name, cluster)).collect()
    }

    /// Whoever says so, and may be right.
    fn say_they_hold(&self, cluster: &ClusterId) -> Vec<&Name> {
        let all = self.may_hold().into_iter();
        all.filter(|(_, node)| holds(node).is_some_and(|(own, _)| own == cluster)).map(|(name, _)| name).collect()
    }

    /// What brings a Swarm back that has no leader: its managers, or a person who gives it up.
    pub(super) fn who_mends(&self, cluster: &ClusterId) -> Ends {
        let (mut off, mut acts, mut comes, mut managers) = (Vec::new(), BTreeSet::new(), false, 0);
        let mut came_back = "blank";
        let all = self.may_hold();
        for (name, node) in &all {
            match self.holder(name, node) {
                Holder::Away { why: Why::Off, .. } => off.push(*name),
                Holder::Away { ends: Ends::Person(act), .. } => {
                    _ = acts.insert(format!("{act}, or {}", anew(&[name])));
                }
                Holder::Away { .. } => comes = true,
                Holder::Blank { .. } | Holder::Holds { .. } => managers += 1,
                Holder::Worker if is_member_of(node, cluster) => {}
                // It was a manager of this one, and is none any more.
                Holder::Worker => (managers, came_back) = (managers + 1, "blank, or as workers of another Swarm"),
            }
        }
        if !off.is_empty() {
            acts.insert(format!("switch {} on", list(&off)));
        }
        if !acts.is_empty() {
            return Ends::Person(acts.into_iter().collect::<Vec<_>>().join("; "));
        }
        let holding = self.holding(cluster);
        if !comes && !holding.is_empty() && holding.len() * 2 <= managers {
            return Ends::Person(format!(
                "its other managers came back {came_back}: `bramble engine start swarm --new --without {}` begins anew, and gives up what {} holds",
                comma(&holding),
                list(&holding)
            ));
        }
        let say_so = self.say_they_hold(cluster);
        if !comes && holding.is_empty() && !say_so.is_empty() {
            // Nobody is one by its own word.
            return Ends::Person(format!(
                "{} says that it holds it: where that is so, make it a manager in the repository until another one has joined",
                list(&say_so)
            ));
        }
        Ends::ByItself
    }
}

fn is_member_of(node: &Node, cluster: &ClusterId) -> bool {
    matches!(&node.engine, Some(EngineState::Member { cluster: own, .. }) if own == cluster)
}

/// As a person reads names.
pub(super) fn list(names: &[&Name]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    names.join(", ")
}

/// The person's act that gives up what these may hold.
pub(super) fn anew(without: &[&Name]) -> String {
    format!("`bramble engine start swarm --new --without {}` begins without it", comma(without))
}

/// As a command takes names.
fn comma(names: &[&Name]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    names.join(",")
}
