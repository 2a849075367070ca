//! Builds stage 1, so that the one program carries what its boot sets begin with.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let target = variable("TARGET");
    // A folder of its own: cargo holds the lock of the one that this script is built in.
    let folder = PathBuf::from(variable("OUT_DIR")).join("stage1");
    let status = Command::new(variable("CARGO"))
        .args(["build", "--release", "--quiet", "--locked", "--package", "bramble-stage1", "--target", &target])
        .arg("--target-dir")
        .arg(&folder)
        // Clippy checks stage 1 where it is; here it is compiled.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "stage 1 does not build");
    let program = folder.join(target).join("release/bramble-stage1");
    println!("cargo:rustc-env=BRAMBLE_STAGE1={}", program.display());
    for input in ["../stage1/src", "../stage1/Cargo.toml", "../../Cargo.toml", "../../Cargo.lock"] {
        println!("cargo:rerun-if-changed={input}");
    }
}
