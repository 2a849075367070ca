//! What a person pipes into a program that ends first.

use std::process::{Command, Stdio};

#[test]
fn whoever_stops_reading_ends_it_without_a_word() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let bramble =
        Command::new(env!("CARGO_BIN_EXE_bramble")).arg("schema").stdout(writer).stderr(Stdio::piped()).output();
    let output = bramble.expect("bramble starts");
    assert_eq!(output.status.code(), Some(128 + 13), "as a shell says it of SIGPIPE");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
