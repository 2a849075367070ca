//! How this node's Docker treats containers: `daemon.json`, and the user that root of a container is.
//!
//! ```text
//! document ─▶ daemon.json ── Docker has no Swarm ──▶ started again, before it joins one
//!                  ├──────── it is in a Swarm ─────▶ counts from its next start
//!                  └ the Swarm is in another folder ▶ started again, and it is in it
//! ```
//! With `userns-remap` Docker keeps all in another folder, a Swarm's state included. So where there is such a state, its
//! folder says whether Docker remaps, and neither the repository nor the image: the file is the image's at each boot, and
//! a state on a data partition is older. The node would forget which Swarm it is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramble_engine::swarm::{REMAPPED, remaps};
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

/// How often this agent has started Docker again. It may be in another folder since, where nothing is that was loaded.
pub(crate) static STARTS: AtomicU64 = AtomicU64::new(0);

/// Where it is.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    etc: PathBuf,
    /// What Docker keeps.
    data: PathBuf,
    /// There for as long as Docker has not begun with the file as it is: until it was started again, or the next boot.
    due: PathBuf,
    /// Program and arguments that start the daemon again where it runs.
    restart: &'static [&'static str],
}

impl Default for Docker {
    fn default() -> Self {
        let restart = &["systemctl", "try-restart", "docker.service"];
        let due = "/run/bramble/docker-restart".into();
        Docker { etc: "/etc".into(), data: "/var/lib/docker".into(), due, restart }
    }
}

fn cannot(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let text = format!("{what} {}", path.display());
    move |error| io::Error::new(error.kind(), format!("{text}: {error}"))
}

/// What the settings make of a `daemon.json`. What they say nothing of stays, also what an overlay of the cluster says. The
/// folder that has a Swarm counts before them.
fn settled(mut written: Map<String, Value>, settings: DockerSettings, swarm: Option<bool>) -> Map<String, Value> {
    if let Some(on) = settings.no_new_privileges {
        written.insert(NO_NEW_PRIVILEGES.into(), on.into());
    }
    match swarm.or(settings.userns_remap) {
        Some(true) => drop(written.insert(USERNS_REMAP.into(), USER.into())),
        Some(false) => drop(written.remove(USERNS_REMAP)),
        None => {}
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
        let swarm = remaps(&self.data);
        if settings.is_none() && swarm.is_none() && !self.due.exists() {
            return Ok(());
        }
        let path = self.etc.join("docker/daemon.json");
        let text = match fs::read_to_string(&path) {
            // The image has no Docker; a data partition may have what one of before has left.
            Err(error) if settings.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(cannot("cannot read", &path))?,
        };
        let settings = settings.unwrap_or(DockerSettings { no_new_privileges: None, userns_remap: None });
        let written: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{} is no JSON: {error}", path.display())))?;
        let had = written.contains_key(USERNS_REMAP);
        if let Some(remaps) = swarm.filter(|remaps| *remaps != settings.userns_remap.unwrap_or(had)) {
            let how = if remaps { "ended" } else { "begun" };
            let text = format!(
                "userns-remap is not {how}: this node's Docker is in a Swarm, whose state it would not find again; \
                 begin with an empty /var/lib/docker"
            );
            tracing::warn!("{text}");
            health::say_on_console(&text);
        }
        let settled = settled(written.clone(), settings, swarm);
        if settled != written {
            let moves = settled.contains_key(USERNS_REMAP) != had;
            if swarm.is_some() && !moves {
                tracing::info!("what the repository says of Docker counts from its next start on: it is in a Swarm");
            } else {
                // Before the file: an agent that ends here, or a start that fails, is made up for by the next document.
                let folder = self.due.parent().map_or(Ok(()), fs::create_dir_all);
                folder.and_then(|()| fs::write(&self.due, "")).map_err(cannot("cannot write", &self.due))?;
            }
            if settled.contains_key(USERNS_REMAP) {
                self.make_user()?;
            }
            let text = serde_json::to_string_pretty(&settled).expect("plain data") + "\n";
            files::replace(&path, text.as_bytes()).map_err(cannot("cannot write", &path))?;
        }
        if !self.due.exists() {
            return Ok(());
        }
        let restart = Command::new(self.restart[0]).args(&self.restart[1..]).limit(RESTART);
        restart.run().map_err(io::Error::other)?;
        STARTS.fetch_add(1, Ordering::SeqCst);
        fs::remove_file(&self.due).map_err(cannot("cannot remove", &self.due))
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
    use bramble_engine::swarm::STATE;

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
        let due = folder.path().join("run/due");
        Node { docker: Docker { etc, data, due, restart: &["false"] }, folder }
    }

    impl Node {
        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.folder.path().join(path)).expect("there")
        }

        fn daemon(&self) -> Value {
            serde_json::from_str(&self.read("etc/docker/daemon.json")).expect("JSON")
        }

        /// Whether Docker was started again; it does start.
        fn starts_again(&mut self, said: Option<DockerSettings>) -> bool {
            self.docker.restart = &["false"];
            let asked = self.docker.apply(said).is_err();
            self.docker.restart = &["true"];
            self.docker.apply(said).expect("it starts");
            assert!(!self.docker.due.exists());
            asked
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
        let mut node = node();
        assert!(node.starts_again(settings(Some(false), Some(true))));
        let wanted = serde_json::json!({ "bridge": "none", "no-new-privileges": false, "userns-remap": "dockremap" });
        assert_eq!(node.daemon(), wanted);
        assert!(node.read("etc/passwd").ends_with("/bin/false\ndockremap:x:897:897::/nonexistent:/usr/sbin/nologin\n"));
        assert!(node.read("etc/group").ends_with("other:x:898:\ndockremap:x:897:\n"));
        assert_eq!(node.read("etc/subuid"), "dockremap:165536:65536\n");
        assert_eq!(node.read("etc/subgid"), node.read("etc/subuid"));
        let before = ["etc/passwd", "etc/group", "etc/subuid", "etc/subgid"].map(|path| node.read(path));
        assert!(!node.starts_again(settings(Some(false), Some(true))), "done already");
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
        let mut node = self::node();
        assert!(node.starts_again(settings(None, Some(true))));
        node.joins(&format!("docker/{REMAPPED}"));
        assert!(!node.starts_again(settings(None, Some(false))), "it stays");
        assert_eq!(node.daemon()["userns-remap"], "dockremap");
    }

    /// After a boot the file is the image's, and what the data partition has is from before.
    #[test]
    fn a_node_with_a_data_partition_finds_its_swarm_again_whatever_the_repository_says_by_now() {
        for said in [None, settings(None, None), settings(None, Some(false)), settings(None, Some(true))] {
            let mut node = node();
            node.joins(&format!("docker/{REMAPPED}"));
            assert!(node.starts_again(said), "{said:?}: had it begun by itself, it would be in the other folder");
            assert_eq!(node.daemon()["userns-remap"], "dockremap", "{said:?}");
            assert_eq!(node.read("etc/subuid"), "dockremap:165536:65536\n");
        }
        // The image has it by its overlay.
        let mut node = node();
        node.joins("docker");
        fs::write(node.folder.path().join("etc/docker/daemon.json"), r#"{"userns-remap":"default"}"#).expect("written");
        assert!(node.starts_again(None));
        assert_eq!(node.daemon(), serde_json::json!({}));
        fs::remove_file(node.folder.path().join("etc/docker/daemon.json")).expect("removed");
        assert!(!node.starts_again(None), "its image has no Docker any more");
    }

    /// The file alone says nothing of what Docker runs with.
    #[test]
    fn a_start_that_fails_is_tried_again_with_the_next_document() {
        let mut node = node();
        for _ in 0..2 {
            node.docker.apply(settings(Some(false), None)).expect_err("it does not start");
        }
        node.docker.apply(None).expect_err("also where nothing is said by now");
        assert!(node.starts_again(None) && !node.starts_again(None));
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
