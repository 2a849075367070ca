//! A person who thinks better of it at a question for a secret.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// A certificate as far as its fingerprint is concerned, which is all that is looked at before the question.
const CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[test]
fn whoever_interrupts_a_question_has_the_terminal_as_it_was() {
    let home = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(home.path().join("bramble")).expect("made");
    let url = "https://localhost:1";
    let known = serde_json::json!({ url: { "url": url, "ca": CA, "user": "", "token": "", "until": null } });
    std::fs::write(home.path().join("bramble/heads.json"), known.to_string()).expect("written");
    for signal in [Signal::INT, Signal::TERM] {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let path = ptsname(&ours, Vec::new()).expect("its name").into_string().expect("text");
        let theirs = File::options().read(true).write(true).open(path).expect("its other side");
        let mut bramble = Command::new(env!("CARGO_BIN_EXE_bramble"))
            .args(["login", url, "--user", "ann"])
            .env("XDG_CONFIG_HOME", home.path())
            .stdin(theirs.try_clone().expect("a handle"))
            .stdout(Stdio::null())
            .stderr(theirs)
            .spawn()
            .expect("bramble starts");
        let (mut screen, mut read) = (File::from(ours), Vec::new());
        let echoes = |screen: &File| tcgetattr(screen).expect("a terminal").local_modes.contains(LocalModes::ECHO);
        while !String::from_utf8_lossy(&read).contains("Password: ") {
            let mut piece = [0; 256];
            let length = screen.read(&mut piece).expect("bramble asks");
            read.extend(&piece[..length]);
        }
        assert!(!echoes(&screen), "a secret is not shown");
        kill_process(Pid::from_child(&bramble), signal).expect("it runs");
        assert_eq!(bramble.wait().expect("it ends").code(), Some(130));
        assert!(echoes(&screen), "{signal:?} leaves the terminal as it was");
    }
}
