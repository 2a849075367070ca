//! Which head is asked: that of a folder, or one elsewhere.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A head that somebody is logged in at, and where nobody answers.
const ELSEWHERE: &str = "https://127.0.0.1:1";
/// Any one that is well formed: nothing is ever signed by it.
const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIBMDCB46ADAgECAhQw4e+BRkraGPsACfs1mCaPItt99zAFBgMrZXAwDTELMAkG\nA1UEAwwCY2EwIBcNMjYxMTI5MTE0NzM1WhgPMjEyNjExMDUxMTQ3MzVaMA0xCzAJ\nBgNVBAMMAmNhMCowBQYDK2VwAyEAy+++aVCHiNTyZvEDpw3F2+paaQobD4cJ4NX1\nJiFb2LqjUzBRMB0GA1UdDgQWBBQYamH3GlLnZdEuCNd7qaOVtULwujAfBgNVHSME\nGDAWgBQYamH3GlLnZdEuCNd7qaOVtULwujAPBgNVHRMBAf8EBTADAQH/MAUGAytl\ncANBAHOsGCLgDO30gqvjczxRx0EtYbzL+zvYHevvMTMSUi3O3aJdHT2dZmTGbPDn\nlqXjT+rEs1nHnYvEb8DhRYpTFgo=\n-----END CERTIFICATE-----\n";
const CLUSTER: &str = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";

/// `plain` is a repository, `begun` one with the state of a head that does not run, `follows` has such a state alone, and
/// `none` has neither.
fn house(logins: &[&str]) -> tempfile::TempDir {
    let top = tempfile::tempdir().expect("a temporary folder");
    let at = |path: &str| top.path().join(path);
    for folder in ["plain", "begun/.bramble", "follows/.bramble", "none", "bramble"] {
        fs::create_dir_all(at(folder)).expect("made");
    }
    for repository in ["plain", "begun"] {
        fs::write(at(repository).join("bramble.toml"), CLUSTER).expect("written");
    }
    for begun in ["begun", "follows"] {
        fs::write(at(begun).join(".bramble/head.redb"), "").expect("written");
    }
    let known = |url: &&str| {
        let known = serde_json::json!({ "url": url, "ca": CA, "user": "ann", "token": "t", "until": null });
        ((*url).to_owned(), known)
    };
    let known: serde_json::Map<_, _> = logins.iter().map(known).collect();
    fs::write(at("bramble/heads.json"), serde_json::Value::from(known).to_string()).expect("written");
    top
}

/// How `bramble` ends, and what it says.
fn bramble(top: &Path, here: &str, variables: &[(&str, &str)], line: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bramble"))
        .args(line.split(' '))
        .current_dir(top.join(here))
        .env_remove("BRAMBLE_HEAD")
        .env_remove("BRAMBLE_REPOSITORY")
        .env("XDG_CONFIG_HOME", top)
        .envs(variables.iter().copied())
        .output()
        .expect("bramble starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn no_verb_about_a_folder_goes_to_a_head_that_nobody_named() {
    let top = house(&[ELSEWHERE]);
    let repository = |folder| [("BRAMBLE_REPOSITORY", folder)];
    for line in ["status", "halt all", "apply --yes", "plan", "up --yes", "engine start swarm --new --yes", "backup"] {
        for (here, variables, line, state) in [
            (".", &[][..], format!("-C begun {line}"), "begun/.bramble"),
            (".", &[], format!("-C plain {line}"), "plain/.bramble"),
            ("plain", &[], format!("--state ../begun/.bramble {line}"), "../begun/.bramble"),
            (".", &repository("plain"), line.to_owned(), "plain/.bramble"),
            ("none", &repository("../begun"), line.to_owned(), "../begun/.bramble"),
            ("begun", &[], line.to_owned(), "./.bramble"),
        ] {
            let (code, said) = bramble(top.path(), here, variables, &line);
            assert_eq!(code, Some(4), "{here} {variables:?} {line}: {said}");
            assert!(said.contains(&format!("no head answers at {state}/head.sock")), "{line}: {said}");
            assert!(said.contains(&format!("BRAMBLE_HEAD={ELSEWHERE}")), "how the other one is reached: {said}");
        }
    }
    for line in ["status", "up", "plan"] {
        for (here, line) in [("follows", line.to_owned()), (".", format!("-C follows {line}"))] {
            let (code, said) = bramble(top.path(), here, &[], &line);
            assert_eq!(code, Some(4), "{here} {line}: {said}");
            assert!(said.contains("/.bramble/head.sock"), "its repository is elsewhere: {line}: {said}");
        }
    }
}

#[test]
fn a_head_elsewhere_is_asked_where_it_is_named_or_the_only_one() {
    let top = house(&[ELSEWHERE]);
    let named = [("BRAMBLE_HEAD", ELSEWHERE)];
    for (here, variables, line) in [
        ("plain", &[][..], "status"),
        ("plain", &[], "apply --yes"),
        ("none", &[], "halt all"),
        ("none", &named, "status"),
        ("begun", &named, "apply --yes"),
        (".", &named, "-C plain apply --yes"),
        ("none", &[named[0], ("BRAMBLE_REPOSITORY", "../plain")], "plan"),
    ] {
        let (code, said) = bramble(top.path(), here, variables, line);
        assert_eq!(code, Some(4), "{here} {variables:?} {line}: {said}");
        assert!(said.contains(&format!("no head answers at {ELSEWHERE}")), "{here} {variables:?} {line}: {said}");
    }
}

#[test]
fn two_heads_are_never_named() {
    let top = house(&[ELSEWHERE]);
    let named = ("BRAMBLE_HEAD", ELSEWHERE);
    for line in ["status", "halt all", "apply --yes", "store repair --yes"] {
        for (variables, line) in [
            (&[named][..], format!("-C begun {line}")),
            (&[named], format!("--state begun/.bramble {line}")),
            (&[named, ("BRAMBLE_REPOSITORY", "begun")], line.to_owned()),
        ] {
            let (code, said) = bramble(top.path(), ".", variables, &line);
            assert_eq!(code, Some(1), "{variables:?} {line}: {said}");
            assert!(said.contains("begun") && said.contains(ELSEWHERE) && said.contains("leave"), "{line}: {said}");
        }
    }
}

#[test]
fn a_folder_that_was_named_and_is_none_is_an_error_whatever_head_is() {
    let top = house(&[ELSEWHERE]);
    let named = ("BRAMBLE_HEAD", ELSEWHERE);
    for line in ["status", "up --yes", "plan", "halt all"] {
        for (variables, line) in [
            (&[named, ("BRAMBLE_REPOSITORY", "none")][..], line.to_owned()),
            (&[("BRAMBLE_REPOSITORY", "nowhere")], line.to_owned()),
            (&[named], format!("-C none {line}")),
            (&[named], format!("-C nowhere --state begun/.bramble {line}")),
        ] {
            let (code, said) = bramble(top.path(), ".", variables, &line);
            assert_eq!(code, Some(3), "{variables:?} {line}: {said}");
            assert!(said.contains("is no cluster repository"), "{variables:?} {line}: {said}");
        }
    }
}

#[test]
fn what_is_asked_of_a_head_elsewhere_is_not_done_here() {
    let top = house(&[ELSEWHERE]);
    let named = [("BRAMBLE_HEAD", ELSEWHERE)];
    for (here, line) in [("begun", "store repair --yes"), ("none", "source key")] {
        let (code, said) = bramble(top.path(), here, &named, line);
        assert_eq!(code, Some(4), "{line}: {said}");
        assert!(said.contains(&format!("no head answers at {ELSEWHERE}")), "{line}: {said}");
    }
    assert!(!top.path().join("none/.bramble").exists(), "no key is made for another head");
    let (code, said) = bramble(top.path(), "begun", &[], "store repair");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("./.bramble"), "whose store it is, is said: {said}");
}

#[test]
fn of_several_logins_none_is_guessed() {
    let top = house(&[ELSEWHERE, "https://127.0.0.1:2"]);
    let (code, said) = bramble(top.path(), "plain", &[], "status");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("several heads are known"), "{said}");
    let (code, said) = bramble(top.path(), "begun", &[], "status");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("https://127.0.0.1:2"), "{said}");
    let (code, said) = bramble(house(&[]).path(), "none", &[], "status");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("bramble login"), "{said}");
}
