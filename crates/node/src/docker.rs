//! How this node's Docker treats containers: `daemon.json`, and the user that root of a container is.
//!
//! ```text
//! document ─▶ daemon.json ── Docker has no Swarm ──▶ started again, before it joins one
//!                  └──────── it is in a Swarm ─────▶ counts from its next start
//! ```
//! With `userns-remap` Docker keeps all in another folder, a Swarm's state included. So that is neither begun nor ended
//! where there is such a state: the node would forget which Swarm it is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_engine::swarm::{REMAPPED, STATE};
use bramble_model::engine::DockerSettings;
use bramble_system::{Command, files};
use serde_json::{Map, Value};

use crate::health;

/// The user whose subordinate ids containers have, as Docker calls it by itself.
const USER: &str = "dockremap";
const NO_NEW_PRIVILEGES: &str = "no-new-privileges";
const USERNS_REMAP: &str = "userns-remap";
/// The daemon starts anew: it says when it is up.
const RESTART: Duration = Duration::from_secs(180);

/// Where it is.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    etc: PathBuf,
    /// What Docker keeps.
    data: PathBuf,
    /// Program and arguments that start the daemon again where it runs.
    restart: &'static [&'static str],
}

impl Default for Docker {
    fn default() -> Self {
        let restart = &["systemctl", "try-restart", "docker.service"];
        Docker { etc: "/etc".into(), data: "/var/lib/docker".into(), restart }
    }
}

fn cannot(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let text = format!("{what} {}", path.display());
    move |error| io::Error::new(error.kind(), format!("{text}: {error}"))
}

/// What the settings make of a `daemon.json`. What they say nothing of stays, also what an overlay of the cluster says.
fn settled(mut written: Map<String, Value>, settings: DockerSettings, may_remap: bool) -> Map<String, Value> {
    if let Some(on) = settings.no_new_privileges {
        written.insert(NO_NEW_PRIVILEGES.into(), on.into());
    }
    match settings.userns_remap {
        Some(true) if may_remap => drop(written.insert(USERNS_REMAP.into(), USER.into())),
        Some(false) if may_remap => drop(written.remove(USERNS_REMAP)),
        _ => {}
    }
    written
}

/// The lines of a file of users or groups with one more, by a number that is free in both; none where it has the name.
fn with_user(text: &str, number: u32, rest: &str) -> Option<String> {
    let has = text.lines().any(|line| line.split(':').next() == Some(USER));
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    (!has).then(|| format!("{text}{end}{USER}:x:{number}:{rest}\n"))
}

/// A number of a system's own user that is neither a user's nor a group's (Debian policy, section 9.2.2).
fn free(passwd: &str, group: &str) -> u32 {
    let taken: Vec<&str> = passwd.lines().chain(group.lines()).filter_map(|line| line.split(':').nth(2)).collect();
    (100..900).rev().find(|number| !taken.contains(&number.to_string().as_str())).unwrap_or(900)
}

impl Docker {
    /// Applies the settings, which a head of before, and one of a node without Docker, does not say.
    ///
    /// # Errors
    /// Which file cannot be read or written, or why Docker does not start again.
    pub(crate) fn apply(&self, settings: Option<DockerSettings>) -> io::Result<()> {
        let Some(settings) = settings else { return Ok(()) };
        let path = self.etc.join("docker/daemon.json");
        let text = fs::read_to_string(&path).map_err(cannot("cannot read", &path))?;
        let written: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{} is no JSON: {error}", path.display())))?;
        let remaps = written.contains_key(USERNS_REMAP);
        let is_member = self.is_member();
        let other = settings.userns_remap.is_some_and(|wanted| wanted != remaps);
        if other && is_member {
            let how = if remaps { "ended" } else { "begun" };
            let text = format!(
                "userns-remap is not {how}: this node's Docker is in a Swarm, whose state it would not find again; \
                 begin with an empty /var/lib/docker"
            );
            tracing::warn!("{text}");
            health::say_on_console(&text);
        }
        let settled = settled(written.clone(), settings, !is_member);
        if settled == written {
            return Ok(());
        }
        if settled.contains_key(USERNS_REMAP) {
            self.make_user()?;
        }
        let text = serde_json::to_string_pretty(&settled).expect("plain data") + "\n";
        files::replace(&path, text.as_bytes()).map_err(cannot("cannot write", &path))?;
        if is_member {
            tracing::info!("what the repository says of Docker counts from its next start on: it is in a Swarm");
            return Ok(());
        }
        let restart = Command::new(self.restart[0]).args(&self.restart[1..]).limit(RESTART);
        restart.run().map(drop).map_err(io::Error::other)
    }

    /// Whether Docker is in a Swarm, or was when it ended.
    fn is_member(&self) -> bool {
        [self.data.clone(), self.data.join(REMAPPED)].iter().any(|root| root.join(STATE).exists())
    }

    /// The user, and the ids below it: the same on every node and at every boot, since files on a data partition have them.
    fn make_user(&self) -> io::Result<()> {
        let read = |name: &str| {
            let path = self.etc.join(name);
            match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                read => read.map_err(cannot("cannot read", &path)),
            }
        };
        let write = |name: &str, text: &str| {
            let path = self.etc.join(name);
            files::replace(&path, text.as_bytes()).map_err(cannot("cannot write", &path))
        };
        let (passwd, group) = (read("passwd")?, read("group")?);
        let number = free(&passwd, &group);
        if let Some(group) = with_user(&group, number, "") {
            write("group", &group)?;
        }
        if let Some(passwd) = with_user(&passwd, number, &format!("{number}::/nonexistent:/usr/sbin/nologin")) {
            write("passwd", &passwd)?;
        }
        let first = REMAPPED.split('.').next().expect("a number");
        for name in ["subuid", "subgid"] {
            let text = read(name)?;
            if !text.lines().any(|line| line.split(':').next() == Some(USER)) {
                write(name, &format!("{text}{USER}:{first}:65536\n"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node as its image has it.
    struct Node {
        folder: tempfile::TempDir,
        docker: Docker,
    }

    const DAEMON: &str = "{\n  \"bridge\": \"none\",\n  \"no-new-privileges\": true\n}\n";

    fn node() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let (etc, data) = (folder.path().join("etc"), folder.path().join("docker"));
        fs::create_dir_all(etc.join("docker")).expect("made");
        fs::create_dir_all(data.join("swarm")).expect("made");
        fs::write(etc.join("docker/daemon.json"), DAEMON).expect("written");
        fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/bash\nlast:x:899:899::/:/bin/false")
            .expect("written");
        fs::write(etc.join("group"), "root:x:0:\nother:x:898:\n").expect("written");
        // It fails where it is asked: whoever starts Docker again is seen.
        Node { docker: Docker { etc, data, restart: &["false"] }, folder }
    }

    impl Node {
        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.folder.path().join(path)).expect("there")
        }

        fn daemon(&self) -> Value {
            serde_json::from_str(&self.read("etc/docker/daemon.json")).expect("JSON")
        }

        fn joins(&self, root: &str) {
            let state = self.folder.path().join(root).join(STATE);
            fs::create_dir_all(state.parent().expect("a folder")).expect("made");
            fs::write(state, "{}").expect("written");
        }
    }

    fn settings(no_new_privileges: Option<bool>, userns_remap: Option<bool>) -> Option<DockerSettings> {
        Some(DockerSettings { no_new_privileges, userns_remap })
    }

    #[test]
    fn what_the_repository_says_nothing_of_is_as_the_image_has_it() {
        let node = node();
        for said in [None, settings(None, None), settings(Some(true), Some(false))] {
            node.docker.apply(said).expect("nothing to do, and nobody starts it again");
            assert_eq!(node.read("etc/docker/daemon.json"), DAEMON);
        }
        assert!(!node.folder.path().join("etc/subuid").exists());
    }

    #[test]
    fn root_of_a_container_becomes_nobody_before_the_node_joins_a_swarm() {
        let node = node();
        node.docker.apply(settings(Some(false), Some(true))).expect_err("it is started again");
        let wanted = serde_json::json!({ "bridge": "none", "no-new-privileges": false, "userns-remap": "dockremap" });
        assert_eq!(node.daemon(), wanted);
        assert!(node.read("etc/passwd").ends_with("/bin/false\ndockremap:x:897:897::/nonexistent:/usr/sbin/nologin\n"));
        assert!(node.read("etc/group").ends_with("other:x:898:\ndockremap:x:897:\n"));
        assert_eq!(node.read("etc/subuid"), "dockremap:165536:65536\n");
        assert_eq!(node.read("etc/subgid"), node.read("etc/subuid"));
        let before = ["etc/passwd", "etc/group", "etc/subuid", "etc/subgid"].map(|path| node.read(path));
        node.docker.apply(settings(Some(false), Some(true))).expect("done already");
        node.docker.make_user().expect("there");
        assert_eq!(["etc/passwd", "etc/group", "etc/subuid", "etc/subgid"].map(|path| node.read(path)), before);
    }

    /// It would have begun as one that belongs to none, and a lone manager's Swarm would be gone.
    #[test]
    fn a_member_of_a_swarm_goes_on_in_the_folder_that_its_state_is_in() {
        let node = node();
        node.joins("docker");
        node.docker.apply(settings(Some(false), Some(true))).expect("nobody starts a member's Docker again");
        assert_eq!(node.daemon(), serde_json::json!({ "bridge": "none", "no-new-privileges": false }));
        let node = self::node();
        node.docker.apply(settings(None, Some(true))).expect_err("started again");
        node.joins(&format!("docker/{REMAPPED}"));
        node.docker.apply(settings(None, Some(false))).expect("it stays");
        assert_eq!(node.daemon()["userns-remap"], "dockremap");
    }

    #[test]
    fn a_file_that_is_no_json_is_named_and_left() {
        let node = node();
        fs::write(node.folder.path().join("etc/docker/daemon.json"), "{").expect("written");
        let error = node.docker.apply(settings(Some(false), None)).expect_err("no JSON");
        assert!(error.to_string().contains("daemon.json is no JSON"), "{error}");
        assert_eq!(node.read("etc/docker/daemon.json"), "{");
    }
}
