//! What was offered and is not applied: candidates, and the small contents that came for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bramble_model::names::Digest;
use bramble_model::snapshot::{Revision, SMALL, Snapshot};
use bramble_model::timeline::Millis;
use sha2::{Digest as _, Sha256};

/// Candidates that wait to be applied.
const CANDIDATES: usize = 8;
/// Bytes of small contents that came and wait with their candidates.
const LOOSE: usize = 64 << 20;
/// So long a candidate waits: whoever wants it later sends it again.
pub(super) const WAITS: Millis = 3600 * 1000;

/// A snapshot that was offered, and is not applied.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) snapshot: Snapshot,
    pub(super) revision: Revision,
    pub(super) at: Millis,
}

impl Candidate {
    /// Whether it is this commit, and nothing that was changed beside it.
    pub(super) fn is_of(&self, commit: &str) -> bool {
        !self.revision.dirty && self.revision.commit.as_deref() == Some(commit)
    }
}

/// Candidates, and contents that came for them.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) candidates: BTreeMap<Digest, Candidate>,
    /// Small contents that came, by digest.
    pub(super) loose: BTreeMap<Digest, Arc<[u8]>>,
    /// Large contents of what waited and waits no more: they may lie on the shelf, though nobody wants them.
    pub(super) left: BTreeSet<Digest>,
}

impl Waiting {
    /// A candidate waits; where too many do, what has waited for longest makes way.
    pub(super) fn offer(&mut self, digest: Digest, candidate: Candidate) {
        let now = candidate.at;
        self.candidates.insert(digest, candidate);
        while self.candidates.len() > CANDIDATES {
            self.evict_oldest();
        }
        self.tidy(now);
    }

    /// A content waits with its candidate, where there is room or room can be made.
    pub(super) fn take(&mut self, bytes: &[u8], now: Millis) -> bool {
        if self.held() + bytes.len() > LOOSE {
            self.tidy(now);
        }
        while self.held() + bytes.len() > LOOSE {
            if self.candidates.len() < 2 {
                return false;
            }
            self.evict_oldest();
            self.tidy(now);
        }
        self.loose.insert(Digest(Sha256::digest(bytes).into()), bytes.into());
        true
    }

    fn evict_oldest(&mut self) {
        let oldest = self.candidates.iter().min_by_key(|(_, candidate)| candidate.at).map(|(digest, _)| *digest);
        self.keep(|digest, _| Some(*digest) != oldest);
    }

    /// A person cannot want this commit any more.
    pub(super) fn forget(&mut self, commit: &str) {
        self.keep(|_, candidate| !candidate.is_of(commit));
    }

    /// Lets go of all candidates but these.
    fn keep(&mut self, is_kept: impl Fn(&Digest, &Candidate) -> bool) {
        self.candidates.retain(|digest, candidate| {
            let stays = is_kept(digest, candidate);
            if !stays {
                let contents = candidate.snapshot.contents();
                self.left.extend(contents.iter().filter(|(_, size)| **size > SMALL).map(|(digest, _)| *digest));
            }
            stays
        });
    }

    /// Lets go of what has waited for too long, and of contents that nothing which waits names.
    pub(super) fn tidy(&mut self, now: Millis) {
        self.keep(|_, candidate| candidate.at + WAITS > now);
        let named: BTreeSet<Digest> =
            self.candidates.values().flat_map(|candidate| candidate.snapshot.contents().into_keys()).collect();
        self.loose.retain(|digest, _| named.contains(digest));
        self.left.retain(|digest| !named.contains(digest));
    }

    fn held(&self) -> usize {
        self.loose.values().map(|bytes| bytes.len()).sum()
    }
}
