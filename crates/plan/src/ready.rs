//! When a node is ready: each engine that its role has a part in has it as a member.

use bramble_model::engine::{ByEngine, EnginePart, EngineState};

/// What the node's engines wait for, the first of them first; `None` where it is ready. Where it has a part in several,
/// the sentence says in which.
pub fn waits(parts: &ByEngine<EnginePart>, engines: &ByEngine<EngineState>) -> Option<String> {
    let several = parts.kinds().count() > 1;
    parts.iter().filter(|(_, part)| **part != EnginePart::None).find_map(|(kind, _)| {
        let wait = wait(engines.of(kind).unwrap_or(&EngineState::None))?;
        Some(if several { format!("{}: {wait}", kind.title()) } else { wait })
    })
}

/// What this engine waits for.
fn wait(state: &EngineState) -> Option<String> {
    match state {
        EngineState::Member { reachable: true, .. } => None,
        EngineState::None => Some("not started".into()),
        EngineState::Starting { waiting_for } => Some(format!("waiting for {waiting_for}")),
        EngineState::Alone => Some("up, belongs to no cluster".into()),
        EngineState::Member { .. } => Some("waits for a majority of the managers".into()),
    }
}

/// The engine that `why` has to speak of: the first that is no reachable member.
pub fn first_waiting(engines: &ByEngine<EngineState>) -> Option<&EngineState> {
    engines.values().find(|state| wait(state).is_some())
}

#[cfg(test)]
mod tests {
    use bramble_model::engine::EngineKind;

    use super::*;

    fn states(state: EngineState) -> ByEngine<EngineState> {
        [(EngineKind::Swarm, state)].into_iter().collect()
    }

    #[test]
    fn a_node_is_ready_when_each_of_its_engines_has_it() {
        let part = |part| [(EngineKind::Swarm, part)].into_iter().collect::<ByEngine<EnginePart>>();
        let member = |reachable| {
            let (cluster, node_id) = ("c".to_owned(), "n".to_owned());
            states(EngineState::Member { cluster, node_id, manager: true, reachable })
        };
        assert_eq!(waits(&ByEngine::default(), &ByEngine::default()), None, "no part in any");
        assert_eq!(waits(&part(EnginePart::None), &ByEngine::default()), None);
        assert_eq!(waits(&part(EnginePart::Worker), &member(true)), None);
        assert_eq!(waits(&part(EnginePart::Worker), &ByEngine::default()).as_deref(), Some("not started"));
        let alone = waits(&part(EnginePart::Worker), &states(EngineState::Alone));
        assert_eq!(alone.as_deref(), Some("up, belongs to no cluster"));
        let majority = waits(&part(EnginePart::Manager), &member(false));
        assert_eq!(majority.as_deref(), Some("waits for a majority of the managers"));
        assert_eq!(first_waiting(&member(true)), None);
        assert!(first_waiting(&member(false)).is_some());
    }
}
