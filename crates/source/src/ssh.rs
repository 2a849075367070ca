//! The server's host key, which is pinned at first use. There is one file for each server: while it is empty the first
//! key is taken, and from then on no other.

use bramble_model::source::Transport;

use crate::git::{Git, Layout, exit_code, pinned_file};
use crate::problem::Problem;
use crate::settings::Settings;

/// The fingerprint of the pinned key, as `ssh-keygen -l` says it: `SHA256:…`.
pub(crate) fn host_key(git: &Git<'_>, settings: &Settings) -> Result<Option<String>, Problem> {
    let Transport::Ssh { host, port, .. } = settings.git.transport() else { return Ok(None) };
    let pinned = pinned_file(git.layout, host, *port);
    if !std::fs::metadata(&pinned).is_ok_and(|data| data.len() > 0) {
        return Ok(None);
    }
    let said = git.program("ssh-keygen").arg("-l").arg("-f").arg(&pinned).run();
    let said = said.map_err(|error| Problem::program("read the pinned host key", error))?.text();
    Ok(said.split_whitespace().nth(1).map(str::to_owned))
}

pub(crate) fn forget(layout: &Layout, settings: &Settings) -> Result<(), Problem> {
    let Transport::Ssh { host, port, .. } = settings.git.transport() else { return Ok(()) };
    let pinned = pinned_file(layout, host, *port);
    match std::fs::remove_file(&pinned) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Problem::file("remove", &pinned)(error)),
        _ => Ok(()),
    }
}

/// Why a server at the end of ssh gave nothing: git and ssh end with the same code for all of it, so the server is asked
/// step by step. Does it answer; with the key that is pinned; does it let us in?
pub(crate) fn cause(git: &Git<'_>, settings: &Settings, detail: String) -> Problem {
    let url = settings.git.to_string();
    let Transport::Ssh { user, host, port } = settings.git.transport() else {
        return Problem::Away { url, detail };
    };
    let scan = git.program("ssh-keyscan").args(["-T", "10", "-p", &port.to_string(), "--", host]).run();
    let offered = match scan {
        Ok(output) => keys(&output.text()),
        Err(error) if exit_code(&error).is_some() => Vec::new(),
        Err(error) => return Problem::program("ask for the host key", error),
    };
    if offered.is_empty() {
        return Problem::Away { url, detail };
    }
    let pinned = std::fs::read_to_string(pinned_file(git.layout, host, *port)).unwrap_or_default();
    let pinned = keys(&pinned);
    if !pinned.is_empty() && !pinned.iter().any(|key| offered.contains(key)) {
        let fingerprint = host_key(git, settings).ok().flatten().unwrap_or_default();
        return Problem::HostKeyChanged { host: host.clone(), pinned: fingerprint };
    }
    let mut login = git.outward(git.layout.ssh()).args(["-T", "-p", &port.to_string()]);
    if let Some(user) = user {
        login = login.args(["-l", user]);
    }
    match login.args(["--", host, "exit"]).run() {
        // ssh's own code; every other is of the program at the other end, which only who is let in reaches.
        Err(error) if exit_code(&error) == Some(255) => Problem::Refused { url, detail },
        Ok(_) | Err(_) => Problem::NoRepository { url, detail },
    }
}

/// Kind and base64 of each line `host kind base64`.
fn keys(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}
