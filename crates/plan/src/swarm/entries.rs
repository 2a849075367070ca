//! Whose a listed manager is.
//!
//! Docker lists a member by a name that its own machine says: root on an old manager calls itself as it likes, also as one
//! of today's managers, or nothing. So a name alone takes no manager's place:
//!
//! ```text
//!   a listed manager ─┬─ a declared manager says that it is this member ─▶ that one's, whatever its name
//!                     ├─ one of this name is silent, and no other manager has the name ─▶ that one's, until it speaks
//!                     └─ any other, also one without a name ─▶ an old manager's: it is to be none
//! ```

use bramble_model::agent::swarm::Member;

use super::*;

/// What a node's agent says of its place in the remembered Swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// Nothing: it is not connected, or does not know yet.
    Silent,
    /// It has none.
    Elsewhere,
    /// It is this member.
    Is(&'a MemberId),
}

impl Look<'_> {
    pub(super) fn word(&self, name: &Name, cluster: &ClusterId) -> Word<'_> {
        match self.observed.nodes.get(name).and_then(|node| node.engine.as_ref()) {
            None | Some(EngineState::None | EngineState::Starting { .. }) => Word::Silent,
            Some(EngineState::Member { cluster: own, node_id, .. }) if own == cluster => Word::Is(node_id),
            Some(EngineState::Alone | EngineState::Member { .. }) => Word::Elsewhere,
        }
    }

    /// The declared node that a member has the name of.
    pub(super) fn named(&self, entry: &Member) -> Option<&Name> {
        let name = entry.hostname.parse::<Name>().ok()?;
        self.declared.nodes.get_key_value(&name).map(|(name, _)| name)
    }

    /// The declared manager that says that it is this member.
    pub(super) fn claimed(&self, entry: &Member, cluster: &ClusterId) -> Option<&Name> {
        let managers = self.declared.nodes.iter().filter(|(_, part)| **part == EnginePart::Manager);
        managers.map(|(name, _)| name).find(|name| self.word(name, cluster) == Word::Is(&entry.id))
    }

    /// Whether a listed manager is one that the repository has as one.
    pub(super) fn is_of_today(&self, entry: &Member, listing: &Listing) -> bool {
        if self.claimed(entry, &listing.cluster).is_some() {
            return true;
        }
        let silent = |name: &&Name| self.is_manager(name) && self.word(name, &listing.cluster) == Word::Silent;
        let same = listing.members.iter().filter(|member| member.manager && member.hostname == entry.hostname);
        self.named(entry).filter(silent).is_some() && same.count() == 1
    }

    /// Whether one that was made a manager, and is none in the repository, may be one still. What it says of itself is not
    /// enough to be taken off the record: the Swarm has to have it as a worker by that id and by its name, or to have no
    /// manager that may be it.
    pub(super) fn may_be_one_still(&self, name: &Name, listing: &Listing) -> bool {
        let word = self.word(name, &listing.cluster);
        let is = |member: &Member| word == Word::Is(&member.id);
        let is_worker = |member: &Member| is(member) && !member.manager && member.hostname == name.as_str();
        if listing.members.iter().any(is_worker) {
            return false;
        }
        let is_anothers = |entry: &Member| {
            let is_its_own = |other: &Name| self.word(other, &listing.cluster) == Word::Is(&entry.id);
            let confirmed = self.named(entry).is_some_and(|other| other != name && is_its_own(other));
            self.claimed(entry, &listing.cluster).is_some() || confirmed && !is(entry)
        };
        listing.members.iter().any(|entry| entry.manager && !is_anothers(entry))
    }

    /// Whom the Swarm has as a manager by its name *and* by the id that it says itself.
    pub(super) fn listed_as_one<'a>(&'a self, listing: &'a Listing) -> impl Iterator<Item = &'a Name> {
        listing.members.iter().filter(|member| member.manager).filter_map(|entry| {
            let name = self.named(entry)?;
            let is_it = self.word(name, &listing.cluster) == Word::Is(&entry.id);
            let claimed = self.claimed(entry, &listing.cluster);
            (is_it && claimed.is_none_or(|other| other == name)).then_some(name)
        })
    }

    /// Why a listed manager is none of today's, where no declared node is it.
    pub(super) fn why_old(&self, entry: &Member, listing: &Listing) -> String {
        match self.named(entry) {
            None if entry.hostname.is_empty() => "no manager of the repository says that it is this member".into(),
            None => "it is not in the repository".into(),
            Some(name) if self.word(name, &listing.cluster) == Word::Silent => {
                format!("the Swarm has several managers by the name of {name}, which does not say which of them it is")
            }
            Some(name) => format!("it has the name of {name}, which is not this member"),
        }
    }

    /// Whom a listed manager that is none of today's is told of as: the declared node of its name, unless that is another
    /// member.
    pub(super) fn subject_of(&self, entry: &Member, listing: &Listing) -> Subject {
        let is_another = |name: &Name| {
            let Word::Is(id) = self.word(name, &listing.cluster) else { return false };
            let own = |member: &Member| member.id == *id && member.hostname == name.as_str();
            *id != entry.id && listing.members.iter().any(own)
        };
        match self.named(entry) {
            Some(name) if !self.is_manager(name) && !is_another(name) => Subject::node(name),
            Some(_) | None => entry_of(entry),
        }
    }
}

/// A member that is no node's.
pub(super) fn entry_of(member: &Member) -> Subject {
    let hostname = if member.hostname.is_empty() { "a member without a name" } else { &member.hostname };
    Subject::Member { engine: EngineKind::Swarm, hostname: hostname.to_owned(), id: member.id.clone() }
}
