//! Remote hands on a real node: a machine that nobody logs in to.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use bramble_tests::{Lab, Repository, has_reached, is_ready, node, program};
use serde_json::Value;

struct Hands(Lab);

impl Hands {
    /// Runs `bramble` with this input; gives exit code, output and errors.
    fn run(&self, words: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
        let mut child = Command::new(program("bramble"))
            .args(words)
            .current_dir(self.0.repository.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bramble starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || drop(pipe.write_all(&input)));
        let output = child.wait_with_output().expect("it ends");
        writer.join().expect("written");
        (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn exec(&self, command: &str, input: &[u8]) -> (i32, String, String) {
        let words = ["exec", "-n", "m1", "-i", "--", "sh", "-c", command];
        let (code, out, err) = self.run(&words, input);
        (code, String::from_utf8_lossy(&out).into_owned(), err)
    }
}

fn boots(status: &Value) -> bool {
    has_reached(status, "m1", "root") && is_ready(status, "m1")
}

#[test]
fn a_machine_without_a_login_is_in_good_hands() {
    let repository = Repository::first_light();
    repository.only("m1");
    let mut lab = Lab::start(repository);
    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("m1 is ready", 240, |status| is_ready(status, "m1"));
    let hands = Hands(lab);

    assert_eq!(hands.exec("hostname", b""), (0, "m1\n".into(), String::new()));
    assert_eq!(hands.exec("echo out; echo err >&2; exit 7", b""), (7, "out\n".into(), "err\n".into()));
    assert_eq!(hands.exec("kill -9 $$", b"").0, 137);
    assert_eq!(hands.exec("cat /proc/self/oom_score_adj", b"").1, "0\n", "it has none of the agent's protection");
    // More than a window, both ways.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let (code, out, err) = hands.run(&["exec", "-n", "m1", "-i", "--", "cat"], &bytes);
    assert!(code == 0 && out == bytes, "{} of {} bytes, {err}", out.len(), bytes.len());

    // Files and folders, there and back.
    let here = hands.0.repository.path().join("copies");
    fs::create_dir_all(here.join("folder/below")).expect("a folder");
    fs::write(here.join("folder/below/file"), &bytes).expect("written");
    fs::write(here.join("note"), "hello\n").expect("written");
    let copy = |from: &str, to: &str| hands.run(&["cp", from, to], b"");
    for (from, to) in [
        ("copies/note", "m1:/run/other"),
        ("copies/note", "m1:/run/new/place/"),
        ("copies/folder", "m1:/run"),
        ("m1:/run/folder", "copies/back"),
        ("m1:/run/other", "copies/"),
    ] {
        let (code, _, err) = copy(from, to);
        assert_eq!(code, 0, "{from} to {to}: {err}");
    }
    assert_eq!(hands.exec("cat /run/other /run/new/place/note", b"").1, "hello\nhello\n");
    assert!(fs::read(here.join("back/below/file")).expect("it came back") == bytes);
    assert_eq!(fs::read(here.join("other")).expect("it came"), b"hello\n");
    let (code, _, err) = copy("m1:/does/not/exist", "copies/");
    assert!(code != 0 && err.contains("No such file"), "{err}");
    let (code, _, err) = copy("copies/note", "m1:/proc/nothing");
    assert!(code != 0 && err.contains("failed"), "{err}");
    let (code, _, err) = copy("copies/none", "m1:/run/none");
    assert!(code == 1 && err.contains("cannot read copies/none"), "{err}");

    let (code, logs, err) = hands.run(&["logs", "-n", "m1", "--lines", "1000"], b"");
    let logs = String::from_utf8_lossy(&logs).into_owned();
    assert!(code == 0 && logs.contains("systemd"), "{err}{logs}");

    // A real terminal, on both sides.
    let shell = format!("{} shell m1", program("bramble").display());
    let mut script = Command::new("script")
        .args(["-qec", &format!("stty cols 97 rows 23; {shell}"), "/dev/null"])
        .current_dir(hands.0.repository.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    let mut keys = script.stdin.take().expect("a pipe");
    keys.write_all(b"tty; stty size; hostname; exit 5\n").expect("typed");
    let output = script.wait_with_output().expect("it ends");
    drop(keys);
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(screen.contains("/dev/pts/") && screen.contains("23 97") && screen.contains("m1"), "{screen}");
    assert_eq!(output.status.code(), Some(5), "{screen}");

    let (_, top, _) = hands.run(&["top", "--once"], b"");
    let top = String::from_utf8_lossy(&top).into_owned();
    assert!(top.contains("m1") && top.contains(" MiB") && top.contains("manager"), "{top}");

    // From the inside, without its power switch.
    let Hands(mut lab) = hands;
    lab.repository.must(&["reboot", "m1"]);
    lab.wait("m1 goes down", 120, |status| !boots(status));
    lab.wait("m1 is back", 240, boots);
    lab.repository.must(&["halt", "m1"]);
    lab.wait("m1 has gone", 120, |status| node(status, "m1")["connected"] == false);
    let audit = lab.repository.must(&["audit"]);
    for what in [
        "exec sh -c hostname on m1",
        "cp note to /run/other on m1",
        "shell on m1",
        "reboot on m1",
        "halt on m1",
        "logs on m1",
    ] {
        assert!(audit.contains(what), "{what}: {audit}");
    }

    let off = |lab: &Lab| lab.repository.must(&["lab", "ls"]).contains(" off ");
    bramble_tests::wait("the machine is off", || off(&lab));

    // To another repository the board is a new one, with something on its disk.
    let disk = lab.repository.state().join("lab/machines/m1/disk.raw").display().to_string();
    let formatted = Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-F", "-L", "photos", &disk]).status();
    assert!(formatted.expect("mkfs starts").success());
    lab.repository.edit(|text| text.replace("52:54:00:00:00:01", "52:54:00:00:00:77"));
    lab.repository.must(&["apply", "--yes"]);
    lab.wait("the head reads its repository again", 60, |status| node(status, "m1")["macs"][0] == "52:54:00:00:00:77");
    let mut adopting = Command::new(program("bramble"))
        .args(["adopt", "52:54:00:00:00:01", "--name", "m2", "--write"])
        .current_dir(lab.repository.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bramble starts");
    let mut errors = std::io::BufReader::new(adopting.stderr.take().expect("a pipe"));
    let asked = std::io::BufRead::lines(&mut errors).next();
    assert!(asked.is_some_and(|line| line.is_ok_and(|line| line.contains("switch 52:54:00:00:00:01 on"))));
    lab.repository.must(&["lab", "power", "on", "m1"]);
    let output = adopting.wait_with_output().expect("it ends");
    let stanza = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stanza}");
    for word in
        ["QEMU", "CARRIES DATA: ext4 \"photos\"", "52:54:00:00:00:01 virtio_net", "[nodes.m2]", "role = \"manager\""]
    {
        assert!(stanza.contains(word), "{word}: {stanza}");
    }
    assert!(fs::read_to_string(lab.repository.path().join("bramble.toml")).expect("readable").ends_with(&stanza));
    lab.repository.must(&["apply", "--yes"]);
    // It switches itself off, and boots as what it is now.
    lab.wait("m2 is a node", 60, |status| !node(status, "m2").is_null());
    bramble_tests::wait("the machine is off", || off(&lab));
    lab.repository.must(&["lab", "power", "on", "m1"]);
    let status = lab.wait("it asks to be let in", 240, |status| node(status, "m2")["pending"].is_string());
    let key = node(&status, "m2")["pending"].as_str().expect("a key").to_owned();
    let console = || lab.repository.must(&["lab", "console", "m1"]);
    bramble_tests::wait("its console shows the same key", || console().contains(&key));
    lab.repository.must(&["node", "approve", "m2", &key]);
    lab.wait("it is let in", 120, |status| node(status, "m2")["connected"] == true);
}
