//! When a node is ready: each engine that its role has a part in has it as a member.

use bramble_model::engine::{ByEngine, EnginePart, EngineState};

/// What an engine waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub sentence: String,
    /// It waits for nothing of its own, only for its cluster.
    pub up: bool,
}

/// What the node's engines wait for, the first of them first; `None` where it is ready. Where it has a part in several,
/// the sentence says in which.
pub fn waits(parts: &ByEngine<EnginePart>, engines: &ByEngine<EngineState>) -> Option<Wait> {
    let several = parts.kinds().count() > 1;
    parts.iter().filter(|(_, part)| **part != EnginePart::None).find_map(|(kind, _)| {
        let Wait { sentence, up } = wait(engines.of(kind).unwrap_or(&EngineState::None))?;
        let sentence = if several { format!("{}: {sentence}", kind.title()) } else { sentence };
        Some(Wait { sentence, up })
    })
}

/// What this engine waits for.
fn wait(state: &EngineState) -> Option<Wait> {
    let (sentence, up) = match state {
        EngineState::Member { reachable: true, .. } => return None,
        EngineState::None => ("not started".into(), false),
        EngineState::Starting { waiting_for } => (format!("waiting for {waiting_for}"), false),
        EngineState::Alone => ("up, belongs to no cluster".into(), true),
        EngineState::Member { reachable: false, .. } => ("waits for a majority of the managers".into(), true),
    };
    Some(Wait { sentence, up })
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
            let (cluster, node_id) = ("c".parse().expect("an id"), "n".parse().expect("an id"));
            states(EngineState::Member { cluster, node_id, manager: true, reachable })
        };
        assert_eq!(waits(&ByEngine::default(), &ByEngine::default()), None, "no part in any");
        assert_eq!(waits(&part(EnginePart::None), &ByEngine::default()), None);
        assert_eq!(waits(&part(EnginePart::Worker), &member(true)), None);
        let told = |part_in, engines: &ByEngine<EngineState>| {
            waits(&part(part_in), engines).map(|Wait { sentence, up }| (sentence, up)).expect("it waits")
        };
        let starting = states(EngineState::Starting { waiting_for: "dockerd".into() });
        assert_eq!(told(EnginePart::Worker, &ByEngine::default()), ("not started".into(), false));
        assert_eq!(told(EnginePart::Worker, &starting), ("waiting for dockerd".into(), false));
        assert_eq!(told(EnginePart::Worker, &states(EngineState::Alone)), ("up, belongs to no cluster".into(), true));
        let majority = ("waits for a majority of the managers".into(), true);
        assert_eq!(told(EnginePart::Manager, &member(false)), majority);
        assert_eq!(first_waiting(&member(true)), None);
        assert!(first_waiting(&member(false)).is_some());
    }
}
