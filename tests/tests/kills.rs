//! `kill -9` of the head at any moment, while snapshots change, steps run and nodes join: the current snapshot is the
//! one that was acknowledged, no step has its effect twice, and no Swarm is lost.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bramble_model::engine::EnginePart;
use bramble_model::names::Name;
use bramble_tests::agents::{Head, runtime};
use bramble_tests::engines::World;
use bramble_tests::machines::house::{HEAD, House, inside};
use serde_json::Value;

const MANAGERS: [&str; 3] = ["m1", "m2", "m3"];
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
const WORKLOADS: [&str; 2] = ["api", "web"];
/// The longest that a cluster may take to come to rest.
const REST: Duration = Duration::from_secs(120);

/// The nodes: name, part, network card.
fn nodes() -> Vec<(Name, EnginePart, String)> {
    let parts = MANAGERS.map(|name| (name, EnginePart::Manager)).into_iter();
    let parts = parts.chain(WORKERS.map(|name| (name, EnginePart::Worker)));
    let name = |name: &str| name.parse().expect("a name");
    parts.enumerate().map(|(number, (node, part))| (name(node), part, format!("52:54:00:02:00:{number:02x}"))).collect()
}

fn declared() -> String {
    let role = |part: &EnginePart| if *part == EnginePart::Manager { "manager" } else { "worker" };
    let nodes = nodes()
        .into_iter()
        .map(|(name, part, mac)| format!("[nodes.{name}]\nmac = \"{mac}\"\nrole = \"{}\"\n\n", role(&part)));
    let workloads = WORKLOADS.map(|name| format!("[workloads.{name}]\npath = \"{name}.yaml\"\n\n"));
    "[roles.manager]\nengine = \"manager\"\nidentity = \"wire\"\n\n".to_owned()
        + &nodes.collect::<String>()
        + &workloads.concat()
}

/// The file of a workload, in this round.
fn file(workload: &str, round: usize) -> String {
    format!("services:\n  {workload}:\n    image: {workload}:{round}\n")
}

struct Cluster {
    house: House,
    world: Arc<World>,
    runtime: tokio::runtime::Runtime,
    head: Head,
    dice: u64,
    /// The snapshot that was acknowledged last.
    acknowledged: String,
    /// Which round each snapshot is of.
    rounds: BTreeMap<String, usize>,
}

impl Cluster {
    fn start() -> Self {
        let files = WORKLOADS.map(|name| (format!("{name}.yaml"), file(name, 0)));
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        let house = House::start_with_files("admission = \"open\"", &declared(), &files);
        let head = Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"));
        let mut cluster = Cluster {
            house,
            world: World::new(nodes()),
            runtime: runtime(),
            head,
            dice: 0x2545_f491_4f6c_dd1d,
            acknowledged: String::new(),
            rounds: BTreeMap::new(),
        };
        cluster.acknowledged = cluster.current();
        cluster.rounds.insert(cluster.acknowledged.clone(), 0);
        cluster
    }

    fn dice(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.house.must(words, "")).expect("JSON")
    }

    fn current(&self) -> String {
        let status = self.house.status().expect("the head answers");
        status["desired"]["snapshot"].as_str().expect("a snapshot").to_owned()
    }

    /// These nodes lose their power, and boot.
    fn cut(&self, names: &[&str]) {
        let names: Vec<Name> = names.iter().map(|name| name.parse().expect("a name")).collect();
        let _inside = self.runtime.enter();
        self.world.cut(&self.head, &names);
    }

    /// Applies the snapshot of this round and kills the head meanwhile, or a little later. Gives whether it was
    /// acknowledged, and how many steps were under way.
    fn kill(&mut self, round: usize) -> (bool, usize) {
        for name in WORKLOADS {
            std::fs::write(self.house.path().join(format!("{name}.yaml")), file(name, round)).expect("written");
        }
        // Half of them while the snapshot is applied, half while it is carried out.
        let longest = if self.dice(2) == 0 { 200 } else { 1200 };
        let pause = Duration::from_millis(self.dice(longest));
        let house = &self.house;
        let ((code, told, error), under_way) = std::thread::scope(|scope| {
            let applying = scope.spawn(|| house.bramble(&["apply", "--yes", "--json"], ""));
            std::thread::sleep(pause);
            let under_way = self.world.tally().under_way;
            let killed = Command::new("kill").args(["-9", &house.head_pid().to_string()]).status();
            assert!(killed.expect("kill runs").success());
            (applying.join().expect("no panic"), under_way)
        });
        self.house.kill_head();
        let now = self.current();
        let answer = (code == 0).then(|| serde_json::from_str::<Value>(&told).expect("JSON"));
        if let Some(answer) = &answer {
            let applied = answer["applied"]["snapshot"].as_str().expect("a snapshot");
            assert_eq!(now, applied, "round {round}: what was acknowledged is current");
        } else if now != self.acknowledged {
            // No answer came: it is the one before, or the whole of the one that was being applied.
            self.house.must(&["apply", "--yes"], "");
            assert_eq!(
                self.current(),
                now,
                "round {round}: neither the one before nor the one that was applied: {error}"
            );
        }
        assert_eq!(self.json(&["history", "--json"])[0]["snapshot"], now.as_str(), "round {round}");
        if now != self.acknowledged {
            self.rounds.insert(now.clone(), round);
        }
        self.acknowledged = now;
        self.holds(round);
        (answer.is_some(), under_way)
    }

    /// Nothing was asked that must never be.
    fn holds(&self, round: usize) {
        let broken = self.world.broken();
        assert!(broken.is_empty(), "round {round}: {broken:#?}");
    }

    /// All nodes are in one Swarm, and what is deployed is what the current snapshot says.
    fn rests(&self) -> Result<(), String> {
        let (cluster, deployed) = self.world.at_rest()?;
        let round = self.rounds[&self.acknowledged];
        for name in WORKLOADS {
            let own = deployed.get(&name.parse::<Name>().expect("a name")).map(|deployed| deployed.file.as_str());
            if own != Some(file(name, round).as_str()) {
                return Err(format!("{cluster} has {deployed:?}, and not that of round {round}"));
            }
        }
        Ok(())
    }

    fn comes_to_rest(&self, round: usize) {
        let start = Instant::now();
        while let Err(why) = self.rests() {
            let status = || self.house.status().map_or_else(String::new, |status| format!("{:#}", status["loops"]));
            assert!(start.elapsed() < REST, "round {round}: no rest within {} s: {why}\n{}", REST.as_secs(), status());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.holds(round);
    }
}

/// What the kills came upon.
#[derive(Default)]
struct Hit {
    acknowledged: usize,
    in_steps: usize,
}

/// So many kills. In every round a snapshot is applied and a worker comes back blank; now and then a manager does, and
/// sometimes the whole house, after which no Swarm is left and one may be begun.
fn kills(times: usize) -> Hit {
    let mut cluster = Cluster::start();
    let everyone: Vec<&str> = MANAGERS.iter().chain(&WORKERS).copied().collect();
    cluster.cut(&everyone);
    let (mut hit, mut houses) = (Hit::default(), 1);
    for round in 1..=times {
        if round % 20 == 0 {
            cluster.cut(&everyone);
            houses += 1;
        } else if round > 1 {
            let worker = WORKERS[cluster.dice(3) as usize];
            cluster.cut(&[worker]);
            // The others hold the Swarm, and have a majority.
            if round % 5 == 1 {
                let manager = MANAGERS[cluster.dice(3) as usize];
                cluster.cut(&[manager]);
            }
        }
        let (told, under_way) = cluster.kill(round);
        hit.acknowledged += usize::from(told);
        hit.in_steps += usize::from(under_way > 0);
        if round % 5 == 0 || round == times {
            cluster.comes_to_rest(round);
        }
    }
    let tally = cluster.world.tally();
    let Hit { acknowledged, in_steps } = hit;
    eprintln!(
        "      {times} kills, {in_steps} of them in the middle of steps, {acknowledged} after an answer; {tally:?}"
    );
    // A house that lost its power while its first manager was told to begin has begun none.
    assert!((1..=houses).contains(&tally.begun), "a Swarm is begun where there is none, once: {tally:?}");
    assert!(tally.joined >= times && tally.deployed > 0, "there was load: {tally:?}");
    hit
}

#[test]
fn no_step_has_its_effect_twice_and_no_swarm_is_lost_when_the_head_is_killed() {
    if inside("no_step_has_its_effect_twice_and_no_swarm_is_lost_when_the_head_is_killed") {
        kills(6);
    }
}

/// The long run of the same.
#[test]
#[ignore = "two hundred kills: part of ./dev soak"]
fn no_step_has_its_effect_twice_and_no_swarm_is_lost_in_two_hundred_kills() {
    if inside("no_step_has_its_effect_twice_and_no_swarm_is_lost_in_two_hundred_kills") {
        let Hit { acknowledged, in_steps } = kills(200);
        assert!(acknowledged > 0 && in_steps > 0, "kills came before and after, and in the middle of steps");
    }
}
