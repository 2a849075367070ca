//! The folder of a repository, given as a word.

use std::fs;
use std::process::Command;

#[test]
fn whatever_the_verb_a_folder_as_its_first_word_is_answered_with_what_to_type() {
    let top = tempfile::tempdir().expect("a temporary folder");
    for folder in ["home", "plain"] {
        fs::create_dir(top.path().join(folder)).expect("made");
    }
    fs::write(top.path().join("home/bramble.toml"), "").expect("written");
    let bramble = |line: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bramble"))
            .args(line.split(' '))
            .current_dir(top.path())
            .env_remove("BRAMBLE_HEAD")
            .env_remove("BRAMBLE_REPOSITORY")
            .env("XDG_CONFIG_HOME", top.path())
            .output()
            .expect("bramble starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (line, typed) in [
        ("/srv/home status", "bramble -C /srv/home status"),
        ("home status --json", "bramble -C home status --json"),
        ("status /srv/home", "bramble -C /srv/home status"),
        ("check home", "bramble -C home check"),
        ("plan home", "bramble -C home plan"),
        ("apply --yes ./home", "bramble -C ./home apply --yes"),
        ("rollback /srv/home", "bramble -C /srv/home rollback"),
        ("up home", "bramble -C home up"),
        ("serve home", "bramble -C home serve"),
        ("lab up home --check", "bramble -C home lab up --check"),
        ("image build home", "bramble -C home image build"),
        ("image use home", "bramble -C home image use …"),
        ("image inspect home", "bramble -C home image inspect"),
        ("why home", "bramble -C home why …"),
        ("why ..", "bramble -C .. why …"),
        ("retry home", "bramble -C home retry …"),
        ("retry home/", "bramble -C home/ retry …"),
        ("halt home", "bramble -C home halt …"),
        ("halt /srv/home all", "bramble -C /srv/home halt all"),
        ("reboot home", "bramble -C home reboot …"),
        ("shell /srv/home", "bramble -C /srv/home shell …"),
        ("node show /srv/home", "bramble -C /srv/home node show …"),
        ("node approve home w1", "bramble -C home node approve w1"),
        ("power /srv/home on w1", "bramble -C /srv/home power on w1"),
        ("logs /srv/home", "bramble -C /srv/home logs"),
        ("logs -n all -f home", "bramble -C home logs -n all -f"),
        ("logs -fn all home", "bramble -C home logs -fn all"),
        ("exec home -n all -- tar -C /", "bramble -C home exec -n all -- tar -C /"),
        ("adopt /srv/home", "bramble -C /srv/home adopt …"),
        ("router-recipe home", "bramble -C home router-recipe …"),
        ("user ls home", "bramble -C home user ls"),
        ("token add /srv/home", "bramble -C /srv/home token add …"),
        ("engine start home swarm --new", "bramble -C home engine start swarm --new"),
        ("store repair home", "bramble -C home store repair"),
    ] {
        let (code, said) = bramble(line);
        assert_eq!(code, Some(2), "{line}: {said}");
        assert!(said.contains(&format!("type `{typed}`")), "{line}: {said}");
        assert!(!said.contains("unexpected argument"), "{line}: {said}");
    }
    for line in [
        // Nothing says that these are folders of repositories.
        "why plain",
        "halt nowhere",
        // A folder is named already: this is a node's name.
        "-C . why home",
        "why -C. home",
        // Paths and addresses are what these take.
        "init home",
        "restore home/backup",
        "cp home w1:/etc",
        "source set /srv/home.git",
        "login https://127.0.0.1:1",
        "logout https://127.0.0.1:1",
        "image pack home/whoami --tag t --output home/t.tar",
        "exec -n all -- /srv/home",
        "exec -n home/ -- true",
        "why --help home",
    ] {
        let (_, said) = bramble(line);
        assert!(!said.contains("type `"), "{line}: {said}");
    }
}
