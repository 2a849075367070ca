//! A lab for tests: the real program, driven as a person drives it, and everything gone at the end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod agents;
pub mod engines;
pub mod fleet;
pub mod generations;
pub mod git;
pub mod git_http;
pub mod machines;
pub mod measure;
pub mod provider;
mod proxy;
pub mod swarm;

pub use proxy::Proxy;

const LOOK: Duration = Duration::from_millis(300);

/// The programs that `./dev build` made.
pub fn program(name: &str) -> PathBuf {
    let path = workspace().join("target/x86_64-unknown-linux-musl/release").join(name);
    assert!(path.exists(), "{} is missing: run ./dev build", path.display());
    path
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").to_owned()
}

/// A copy of an example repository that the test may change.
pub struct Repository {
    folder: tempfile::TempDir,
    /// The `bramble` that works on it.
    program: PathBuf,
}

impl Repository {
    /// Copies `examples/first-light`, without its state.
    pub fn first_light() -> Self {
        Self::first_light_of(program("bramble"))
    }

    /// As [`Repository::first_light`], with the `bramble` of another release.
    pub fn first_light_of(program: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("bramble-test-").tempdir().expect("a temporary folder");
        copy(&workspace().join("examples/first-light"), folder.path());
        let is_of_today = program == crate::program("bramble");
        let repository = Repository { folder, program };
        if !is_of_today {
            repository.without_tpm();
        }
        repository
    }

    fn without_tpm(&self) {
        self.edit(|text| text.replace("lab     = { tpm = true }\n", ""));
    }

    /// Its manager is known by its wire alone, as one is whose agent says of no key where it keeps it.
    pub fn by_wire(self) -> Self {
        self.without_tpm();
        self.edit(|text| text.replace("engine = \"manager\"\n", "engine = \"manager\"\nidentity = \"wire\"\n"));
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.path().join(".bramble")
    }

    /// Changes `bramble.toml`.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.path().join("bramble.toml");
        let text = fs::read_to_string(&path).expect("readable");
        fs::write(&path, change(text)).expect("writable");
    }

    /// Keeps one node.
    pub fn only(&self, node: &str) {
        self.edit(|text| {
            let mut kept = String::new();
            for part in text.split_inclusive("\n\n") {
                if !part.starts_with("[nodes.") || part.starts_with(&format!("[nodes.{node}]")) {
                    kept += part;
                }
            }
            kept
        });
    }

    /// Leaves addresses to the router on the wire, and what to boot as well with the mode "router".
    pub fn beside_a_router(&self, mode: &str) {
        self.edit(|text| {
            let text = text.replace("dhcp      = \"full\"", &format!("dhcp = \"{mode}\""));
            let ours = |line: &&str| !["subnet", "pool", "address"].iter().any(|key| line.starts_with(key));
            text.lines().filter(ours).collect::<Vec<_>>().join("\n")
        });
    }

    /// Runs `bramble` with these words on this repository.
    pub fn run(&self, words: &[&str]) -> Output {
        let output = Command::new(&self.program).args(words).current_dir(self.path()).output();
        output.expect("bramble starts")
    }

    /// Builds the boot set of this `bramble`, and has nodes boot it from now on, as the head of the repository's own
    /// `bramble` is told that.
    pub fn build_by(&self, by: &Path) {
        if by == self.program {
            self.must(&["image", "build"]);
            return;
        }
        let before = self.boot_sets();
        let is_of_today = by == program("bramble");
        let words: &[&str] = if is_of_today { &["image", "build", "--folder"] } else { &["image", "build"] };
        let output = Command::new(by).args(words).current_dir(self.path()).output().expect("bramble starts");
        let new: Vec<String> = self.boot_sets().difference(&before).cloned().collect();
        let [set] = &new[..] else { panic!("{new:?}: {}", String::from_utf8_lossy(&output.stderr)) };
        if is_of_today {
            // The head of before reads which set is given from a file, and knows no route for it.
            fs::write(self.state().join("image/current"), format!("{set}\n")).expect("written");
        } else {
            self.must(&["image", "use", set]);
        }
    }

    fn boot_sets(&self) -> BTreeSet<String> {
        let sets = fs::read_dir(self.state().join("image/sets")).into_iter().flatten().flatten();
        sets.filter_map(|set| set.file_name().into_string().ok()).filter(|name| !name.starts_with('.')).collect()
    }

    /// As [`Repository::run`]; it must succeed.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bramble {words:?}: {}\n{told}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Copies a repository's folder, without the state in it.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_name() == ".bramble" {
            continue;
        }
        if entry.file_type().expect("readable").is_dir() {
            fs::create_dir_all(&target).expect("a folder");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// A running lab with every machine off.
pub struct Lab {
    pub repository: Repository,
    child: Child,
}

impl Lab {
    pub fn start(repository: Repository) -> Self {
        repository.must(&["image", "build"]);
        let child = Command::new(&repository.program)
            .args(["lab", "up", "--off"])
            .current_dir(repository.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("bramble starts");
        let mut lab = Lab { repository, child };
        lab.wait("the head answers", 60, |_| true);
        lab
    }

    /// The head's status; `None` while no head answers.
    pub fn status(&self) -> Option<Value> {
        let output = self.repository.run(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Waits until `condition` holds for the status.
    pub fn wait(&mut self, what: &str, seconds: u64, condition: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        eprintln!("      … {what}");
        loop {
            assert!(self.child.try_wait().expect("a child").is_none(), "the lab ended while waiting: {what}");
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| condition(status)) {
                return status.clone();
            }
            assert!(
                start.elapsed() < Duration::from_secs(seconds),
                "not within {seconds} s: {what}\nstatus: {}\n{}",
                status.map_or_else(|| "no head answers".into(), |status| format!("{status:#}")),
                self.consoles()
            );
            sleep(LOOK);
        }
    }

    fn consoles(&self) -> String {
        let folder = self.repository.state().join("lab/console");
        let mut text = String::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let console = fs::read(entry.path()).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            let lines: Vec<&str> = console.lines().collect();
            text += &format!("{}:\n{}\n", entry.path().display(), lines[lines.len().saturating_sub(25)..].join("\n"));
        }
        text
    }

    /// Gives the disk of a machine that is off a data partition with this GUID, with what is in `content` on it.
    pub fn partition(&self, node: &str, guid: &str, content: Option<&Path>) {
        const START: u64 = 1;
        const LENGTH: u64 = 2048;
        let disk = self.repository.state().join("lab/machines").join(node).join("disk.raw").display().to_string();
        let table = format!("label: gpt\nstart={START}MiB, size={LENGTH}MiB, uuid={guid}\n");
        feed("/usr/sbin/sfdisk", &["--quiet", &disk], &table);
        let content = content.map(|content| content.display().to_string());
        let filled: Vec<&str> = content.iter().flat_map(|content| ["-d", content]).collect();
        let (offset, length) = (format!("offset={}", START << 20), format!("{LENGTH}M"));
        let words = [&["-q", "-F", "-E", &offset][..], &filled, &[&disk, &length]].concat();
        feed("/usr/sbin/mkfs.ext4", &words, "");
    }

    /// Events of the timeline, oldest first.
    pub fn events(&self, node: &str) -> Vec<Value> {
        let text = self.repository.must(&["node", "show", node, "--json"]);
        let shown: Value = serde_json::from_str(&text).expect("JSON");
        shown["events"].as_array().expect("events").clone()
    }

    /// Kills the head as the kernel would when memory runs out, and waits for the next one.
    pub fn kill_head(&mut self) {
        let kill = Command::new("kill").args(["-KILL", &self.head().to_string()]).status().expect("kill starts");
        assert!(kill.success(), "the head was killed");
        self.wait("the head is back", 60, |_| true);
    }

    /// The head's process.
    fn head(&self) -> u32 {
        let state = self.repository.state();
        let is_head = |words: &[String]| {
            words.iter().any(|word| word == "serve") && words.iter().any(|word| Path::new(word) == state)
        };
        let found: Vec<u32> =
            processes().into_iter().filter(|(_, words)| is_head(words)).map(|(process, _)| process).collect();
        let [head] = found[..] else { panic!("one head runs: {found:?}") };
        head
    }

    /// How `nsenter` comes to where the head is: the lab's user and network namespace.
    pub fn entering(&self) -> [String; 5] {
        let words = ["--target", &self.head().to_string(), "--user", "--net", "--preserve-credentials"];
        words.map(str::to_owned)
    }

    /// Runs a program there.
    pub fn on_the_wire(&self, words: &[&str]) {
        let entered = Command::new("nsenter").args(self.entering()).args(words).output().expect("nsenter starts");
        assert!(entered.status.success(), "{words:?}: {}", String::from_utf8_lossy(&entered.stderr));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let terminated = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(20) {
            sleep(Duration::from_millis(50));
        }
        let ended = !matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert!(terminated.is_ok_and(|status| status.success()) && ended, "the lab ends when asked");
            let place = self.repository.path().display().to_string();
            let left: Vec<_> =
                processes().into_iter().filter(|(_, words)| words.iter().any(|word| word.contains(&place))).collect();
            assert!(left.is_empty(), "processes are left: {left:?}");
            let state = self.repository.state();
            assert!(!state.join("lab/machines").exists(), "disks are left");
            if fs::metadata(&state).is_ok_and(|data| data.uid() == bramble_testing::USER) {
                let roots = bramble_testing::not_given(&state);
                assert!(roots.is_empty(), "what root made in a user's folder is the user's: {roots:?}");
            }
        }
    }
}

/// Runs a program with this input.
fn feed(program: &str, words: &[&str], input: &str) {
    use std::io::Write;
    let child = Command::new(program).args(words).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{program} {words:?}");
}

/// Waits until a condition holds.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// Processes of this machine and their words.
fn processes() -> Vec<(u32, Vec<String>)> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            Some((pid, words.collect()))
        })
        .collect()
}

/// A node of a status.
pub fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).unwrap_or(&Value::Null)
}

/// Whether a node is ready and connected.
pub fn is_ready(status: &Value, name: &str) -> bool {
    let node = node(status, name);
    node["phase"] == "ready" && node["connected"] == true
}

/// Whether a node has come as far as this phase on its way.
pub fn has_reached(status: &Value, name: &str, phase: &str) -> bool {
    let times = node(status, name)["times"].as_array().cloned().unwrap_or_default();
    times.iter().any(|entry| entry[0] == phase)
}

/// Replicas of the example's workload: running, wanted.
pub fn replicas(status: &Value) -> (u64, u64) {
    let service = &status["workloads"][0]["services"][0];
    (service["running"].as_u64().unwrap_or(0), service["wanted"].as_u64().unwrap_or(0))
}
