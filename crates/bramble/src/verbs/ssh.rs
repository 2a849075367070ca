//! `bramble ssh …`: how SSH knows the nodes.

use anyhow::{Result, bail};

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

pub async fn known_hosts(place: &Place, json: bool) -> Result<Exit> {
    let known = Client::of(place)?.known_hosts().await?;
    if json {
        screen::json(&known)?;
        return Ok(Exit::Done);
    }
    let Some(line) = known.line else {
        bail!("no node has an SSH server: the repository has no `cluster.ssh_keys` (`bramble shell NODE` needs none)");
    };
    println!("{}{line}", note(&line));
    Ok(Exit::Done)
}

/// What stands before the line in a file of known hosts, which passes over comments: the line alone makes a machine without
/// such a certificate one that nobody knows, and `ssh` asks whether to connect.
fn note(line: &str) -> String {
    let hosts = line.split(' ').nth(1).unwrap_or_default();
    let all = hosts.split(',').find(|host| host.starts_with("*.")).unwrap_or("*");
    format!(
        "# By this line ssh knows the nodes, and asks before it connects to another machine that has their place.\n\
         # To have it refuse that one without a question, write in ~/.ssh/config, and use NAME{}:\n\
         #   Host {all}\n\
         #     StrictHostKeyChecking yes\n",
        all.strip_prefix('*').unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_line_is_a_comment_that_says_how_ssh_refuses_others() {
        let note = note("@cert-authority *.home.arpa,m1,10.77.0.11 ssh-ed25519 AAAA bramble-home");
        assert!(note.ends_with('\n') && note.lines().all(|line| line.starts_with("# ")), "{note}");
        assert!(
            note.contains("use NAME.home.arpa:\n#   Host *.home.arpa\n#     StrictHostKeyChecking yes\n"),
            "{note}"
        );
    }
}
