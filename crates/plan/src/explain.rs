//! `bramble why NODE`: what a node waits for, since when, and what to do about it.

use bramble_model::agent::EngineState;
use bramble_model::api::{NodeStatus, Status};
use bramble_model::timeline::{Millis, Phase};
use serde::Serialize;

/// The answer, as sentences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Where it stands.
    pub state: String,
    /// What it waits for, or the cause of its trouble.
    pub cause: String,
    /// What a person can do; `None` where waiting is right.
    pub advice: Option<String>,
    /// Seconds in this state.
    pub seconds: u64,
}

/// How long a phase takes on slow but healthy hardware, in seconds. Longer is worth a remark.
fn usual(phase: Phase) -> u64 {
    match phase {
        Phase::Off | Phase::Ready => u64::MAX,
        // Servers test their memory; switch ports that run spanning tree block for up to 50 s.
        Phase::Firmware => 180,
        Phase::Loader | Phase::Kernel => 60,
        Phase::Root | Phase::System => 120,
        Phase::Agent => 30,
        Phase::Engine => 120,
    }
}

/// Explains the state of one node.
pub fn explain(status: &Status, node: &NodeStatus) -> Explanation {
    let seconds = seconds(status.at, node.since);
    let late = seconds > usual(node.phase);
    let (cause, advice): (String, Option<&str>) = if let Some(failure) = &node.failure {
        (format!("it says: {failure}"), Some("it tries again by itself; the sentence names what to put right"))
    } else {
        match node.phase {
            Phase::Off if status.set.is_none() => {
                ("there is no boot set that it could boot".into(), Some("run `bramble image build`, then `bramble up`"))
            }
            Phase::Off => (
                "nothing has been heard of it: neither a DHCP request nor a fetch of its boot script came from its MAC addresses".into(),
                Some(
                    "switch it on (`bramble power on`), set its firmware to boot from the network, and check cable and MAC in bramble.toml",
                ),
            ),
            Phase::Firmware if late => (
                "its firmware was offered a boot file and does not fetch it".into(),
                Some(
                    "some firmware never merges two DHCP offers: put the boot options into the home router's own offer, or use full DHCP",
                ),
            ),
            Phase::Firmware => ("its firmware is starting".into(), None),
            Phase::Loader if late => (
                "it has its loader, and the loader does not ask for its boot script".into(),
                Some("see its console; a loader without a driver for the network card stays silent"),
            ),
            Phase::Loader => ("iPXE is starting".into(), None),
            Phase::Kernel if late => (
                "kernel and initrd were fetched, and nothing has been heard since".into(),
                Some("see its console: the kernel does not start, or has no driver for the network card"),
            ),
            Phase::Kernel => ("kernel and initrd are on their way".into(), None),
            Phase::Root => match node.percent {
                Some(percent) => (
                    format!("stage 1 has {percent} % of the root"),
                    late.then_some("the line is slow, or the head is busy"),
                ),
                None => ("stage 1 brings up drivers and network".into(), None),
            },
            Phase::System if late => (
                "systemd started, and the agent has not come".into(),
                Some("see its console; `systemctl --failed` on the node names the unit"),
            ),
            Phase::System => ("systemd is starting".into(), None),
            Phase::Agent | Phase::Engine => {
                (engine(node), late.then_some("`bramble status` shows what the engine waits for"))
            }
            Phase::Ready if node.connected => ("nothing: it is ready".into(), None),
            Phase::Ready => (
                "its agent's connection is lost".into(),
                Some("its power, its cable or its switch; it comes back by itself when it can"),
            ),
        }
    };
    let waiting = status.waiting.iter().find(|waiting| waiting.subject == node.name.as_str());
    let cause = match waiting {
        Some(waiting) if matches!(node.phase, Phase::Agent | Phase::Engine) => format!("{cause}; {}", waiting.reason),
        _ => cause,
    };
    Explanation { state: node.phase.as_str().into(), cause, advice: advice.map(str::to_owned), seconds }
}

fn engine(node: &NodeStatus) -> String {
    match node.engine() {
        Some(EngineState::Starting { waiting_for }) => format!("the engine waits for {waiting_for}"),
        Some(EngineState::Alone) => "the engine is up and has not joined yet".into(),
        Some(EngineState::Member { reachable: false, .. }) => "the engine waits for a majority of its managers".into(),
        Some(_) | None => "the agent is connected and the engine has not reported".into(),
    }
}

fn seconds(now: Millis, since: Millis) -> u64 {
    now.saturating_sub(since) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: Phase, seconds: u64) -> (Status, NodeStatus) {
        let node = NodeStatus {
            name: "w1".parse().expect("a name"),
            role: "worker".parse().expect("a name"),
            phase,
            since: 1_000_000,
            percent: None,
            last: None,
            failure: None,
            connected: false,
            set: None,
            facts: None,
            health: None,
            times: Vec::new(),
        };
        let status = Status {
            cluster: "lab".parse().expect("a name"),
            at: 1_000_000 + seconds * 1000,
            set: Some("abc".into()),
            head_resident: 0,
            nodes: Vec::new(),
            workloads: Vec::new(),
            seen: Vec::new(),
            waiting: Vec::new(),
        };
        (status, node)
    }

    #[test]
    fn every_phase_has_its_sentence_in_time_and_late() {
        let mut text = String::new();
        for phase in std::iter::once(Phase::Off).chain(Phase::WAY) {
            for seconds in [5, 500] {
                let (status, node) = status(phase, seconds);
                let Explanation { state, cause, advice, seconds } = explain(&status, &node);
                text += &format!("{state} for {seconds} s: {cause}\n");
                if let Some(advice) = advice {
                    text += &format!("    {advice}\n");
                }
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_the_node_says_itself_comes_first() {
        let (status, mut node) = status(Phase::Root, 5);
        node.failure = Some("network card eth0 has no link: is its cable plugged in?".into());
        assert!(explain(&status, &node).cause.contains("cable"));
    }
}
