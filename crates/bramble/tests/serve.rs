//! A head that cannot begin.

use std::fs;
use std::process::Command;

#[test]
fn a_head_that_cannot_begin_leaves_nothing_behind() {
    let with = |interface: &str| format!("[cluster]\nname = \"c\"\n[network]\ninterface = \"{interface}\"\n");
    for (text, code, why) in [
        (None, 3, "there is no such file"),
        (Some("nonsense =".to_owned()), 3, "expected"),
        (Some(with("nowhere0")), 1, "network interface nowhere0"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(text) = text {
            fs::write(folder.path().join("bramble.toml"), text).expect("written");
        }
        let bramble = Command::new(env!("CARGO_BIN_EXE_bramble")).arg("-C").arg(folder.path()).arg("serve").output();
        let output = bramble.expect("bramble starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
        assert!(!folder.path().join(".bramble").exists(), "{why}");
    }
}
