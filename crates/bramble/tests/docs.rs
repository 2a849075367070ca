//! What `docs/security.md` says is held by tests that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All files below a folder, but what is built.
fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true if path.ends_with("target") => {}
            true => below(&path, found),
            false => found.push(path),
        }
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Functions of the sources, and what golden files are called.
fn known(home: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["crates", "tests"] {
        below(&home.join(folder), &mut files);
    }
    let mut known = BTreeSet::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        if let Some((_, golden)) = name.strip_suffix(".snap").and_then(|name| name.rsplit_once("__")) {
            known.insert(golden.to_owned());
        }
        if name.ends_with(".rs") {
            let text = fs::read_to_string(&file).expect("text");
            known.extend(text.split("fn ").skip(1).map(|rest| rest.chars().take_while(|c| is_of_a_name(*c)).collect()));
        }
    }
    known
}

#[test]
fn every_test_that_the_page_on_security_names_is_there() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (known, page) = (known(&home), fs::read_to_string(home.join("docs/security.md")).expect("a page"));
    let words = page.split('`').skip(1).step_by(2).map(|word| word.split_whitespace().collect::<Vec<_>>().join(" "));
    // `where: test`, or a test of the same place as the one before. Files, commands and settings have fewer words.
    let tests: Vec<String> = words
        .map(|word| word.rsplit_once(": ").map_or(word.clone(), |(_, test)| test.to_owned()))
        .filter(|word| word.chars().all(is_of_a_name) && word.matches('_').count() >= 4)
        // A metric.
        .filter(|word| !word.starts_with("bramble_"))
        .collect();
    assert!(tests.len() > 200, "they are written in another way now: {}", tests.len());
    let missing: Vec<&String> = tests.iter().filter(|test| !known.contains(*test)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
