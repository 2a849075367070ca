//! Nodes that run another system: what they are handed, their templates, and their word that they are
//! installed.

use std::net::SocketAddrV4;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bramble_model::names::{BootId, Mac, Name};
use bramble_model::repository::{BootFile, HandOff, Node, Profile, Starts};
use bramble_model::timeline::What;
use bramble_plan::hand_off::{Asked, By, Fetches, Give, Record};
use bramble_store::Store;
use bramble_system::{locked, now};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use super::Asker;
use super::given::{Given, Handed, tag};
use super::index::Index;
use crate::admissions::HandOffs;
use crate::error::Error;
use crate::neighbours::Place;
use crate::nodes::Nodes;
use crate::random::random;
use crate::timeline::Timeline;

fn hand_off(store: &Store, node: &Name) -> Result<Record, Error> {
    Ok(store.blocking().read::<HandOffs>(node)?.unwrap_or_default())
}

/// On disk when this returns.
pub(crate) fn change_hand_off<T>(
    store: &Store,
    node: &Name,
    mut change: impl FnMut(&mut Record) -> T,
) -> Result<T, Error> {
    Ok(store.blocking().update::<HandOffs, T>(node, |kept| change(kept.get_or_insert_default()))?)
}

/// As [`change_hand_off`], for what a machine has done already, whatever the disk takes.
fn note_hand_off<T>(store: &Store, node: &Name, mut change: impl FnMut(&mut Record) -> T) -> Result<T, Error> {
    Ok(store.blocking().update_even_in_memory::<HandOffs, T>(node, |kept| change(kept.get_or_insert_default()))?)
}

/// The path of a profile's UEFI program, over TFTP and below `/boot/` over HTTP.
pub(crate) fn efi_path(profile: &Name) -> String {
    format!("profile/{profile}/start.efi")
}

/// The profile whose UEFI program has this path.
pub(crate) fn profile_of_efi(path: &str) -> Option<Name> {
    path.strip_prefix("profile/")?.strip_suffix("/start.efi")?.parse().ok()
}

/// What is known of the nodes that boot another system.
pub(super) struct ForeignBoots {
    store: Store,
    timeline: Arc<Timeline>,
    nodes: Nodes,
    /// Present boots.
    present: Mutex<Index>,
}

impl ForeignBoots {
    /// Knows again the boots that were handed out before this start.
    pub(super) fn open(store: Store, timeline: Arc<Timeline>, nodes: Nodes) -> Self {
        let mut present = Index::default();
        let cluster = nodes.cluster();
        for node in cluster.nodes.iter().filter(|(_, node)| node.boot.is_some()).map(|(name, _)| name) {
            // One that cannot be read is told of at the start, and boots its disk until a person has looked.
            if let Ok(record) = hand_off(&store, node) {
                let boots = record.before.into_iter().rev().chain(record.boot);
                boots.for_each(|boot| present.begins(node, boot, &[]));
            }
        }
        ForeignBoots { store, timeline, nodes, present: Mutex::new(present) }
    }

    fn present(&self) -> MutexGuard<'_, Index> {
        locked(&self.present)
    }

    fn profile(&self, node: &Name) -> Option<(Name, Profile)> {
        let cluster = self.nodes.cluster();
        let name = cluster.nodes.get(node)?.boot.clone()?;
        let profile = cluster.boots.get(&name)?.clone();
        Some((name, profile))
    }

    /// What the node would be given now; `None` where it runs bramble's own system.
    pub(super) fn give(&self, node: &Name) -> Option<Give> {
        let (name, profile) = self.profile(node)?;
        Some(match hand_off(&self.store, node) {
            Ok(mut record) => record.give(&name, profile.hand_off),
            // Whoever asks for its script is told; nothing is installed on a disk that may have been before.
            Err(error) => {
                tracing::error!(%error, %node, "its hand-off cannot be read");
                Give::Disk
            }
        })
    }

    /// Decides and notes what this boot is given; `None` where it is bramble's own system.
    ///
    /// # Errors
    /// When it is asked for from another card's place, or the store or a template fails; the sentence is for the console.
    pub(super) fn hand_over(
        &self,
        node: &Name,
        mac: Mac,
        (asker, fetches): (Asker, Fetches),
        http: SocketAddrV4,
    ) -> Result<Option<Given>, String> {
        let Some((name, profile)) = self.profile(node) else { return Ok(None) };
        let by = match asker {
            Asker::Machine { place: Place::Own(_), .. } => By::Card,
            // Behind a relay the head's own word on whose an address is has to do.
            Asker::Machine { place: Place::Relayed, .. } if fetches == Fetches::Routed => By::Relayed,
            Asker::Machine { place: Place::Relayed, .. } => {
                return Err(format!(
                    "[boot.{name}] is given behind a relay to a node with an `address` of its own, at that"
                ));
            }
            Asker::Pixiecore => By::Pixiecore,
            // What is handed over once is not used up by whoever says to be the machine.
            Asker::Machine { place: Place::Others, .. } => {
                return Err(format!(
                    "[boot.{name}] is given at the place of {mac} on the wire alone, and this is another card's"
                ));
            }
        };
        let (boot, asked) = (BootId(random()), Asked { at: now(), by });
        let begin = |record: &mut Record| {
            let give = record.give(&name, profile.hand_off);
            if give == Give::Profile {
                record.begins(boot.clone(), asked);
            }
            give
        };
        // What is to be installed once is not begun where nobody would know of it after a power cut.
        let once = profile.hand_off != HandOff::EveryBoot && self.give(node) == Some(Give::Profile);
        let give =
            if once { change_hand_off(&self.store, node, begin) } else { note_hand_off(&self.store, node, begin) };
        if give.map_err(|error| error.to_string())? == Give::Disk {
            self.timeline.add(Some(node), What::BootsDisk);
            return Ok(Some(Given::Disk));
        }
        self.present().begins(node, boot.clone(), &[]);
        self.timeline.add(Some(node), What::ScriptServed { boot: tag(&boot), set: name.to_string() });
        Ok(Some(match &profile.starts {
            Starts::Efi(_) => Given::Efi(format!("http://{http}/boot/{}?boot={boot}", efi_path(&name))),
            Starts::Kernel { kernel, initrds, cmdline } => {
                let url = |source: &BootFile, file: &str| match source {
                    BootFile::Url(url) => url.clone(),
                    BootFile::File(path) => {
                        // Another snapshot may become current before the machine asks: a boot is of one only.
                        let content = self.nodes.content_of(path).map(|content| format!("&content={content}"));
                        let content = content.unwrap_or_default();
                        format!("http://{http}/boot/profile/{name}/{file}?boot={boot}{content}")
                    }
                };
                let urls = initrds.iter().enumerate();
                let declared = self.nodes.declared(node).ok_or("it has just left the repository")?;
                let variables = self.variables(node, &declared, mac, http, &boot);
                Given::Kernel(Handed {
                    kernel: url(kernel, "kernel"),
                    initrds: urls.map(|(index, source)| url(source, &format!("initrd{index}"))).collect(),
                    cmdline: render(cmdline, &variables).map_err(|error| format!("[boot.{name}] cmdline: {error}"))?,
                })
            }
        }))
    }

    /// The last of its files has been fetched: from now on this boot counts, where it was its machine.
    pub(super) fn handed(&self, node: &Name, fetches: Fetches) {
        let Some((name, _)) = self.profile(node) else { return };
        let handed = |record: &mut Record| {
            let is_own = record.is_handed_by(fetches);
            if is_own {
                record.handed();
            }
            is_own
        };
        match note_hand_off(&self.store, node, handed) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::error!(%error, %node, "a hand-off could not be stored"),
        }
        self.timeline.add(Some(node), What::HandedOff { profile: name });
    }

    /// What templates know.
    fn variables(&self, node: &Name, declared: &Node, mac: Mac, http: SocketAddrV4, boot: &BootId) -> Variables {
        let cluster = self.nodes.cluster();
        let profile = declared.boot.as_ref().map(Name::to_string).unwrap_or_default();
        Variables {
            node: node.to_string(),
            domain: cluster.domain.clone(),
            role: declared.role.to_string(),
            mac: mac.to_string(),
            address: declared.address.map(|address| address.to_string()).unwrap_or_default(),
            head: format!("http://{http}"),
            url: format!("http://{http}/boot/seed/{boot}/"),
            files: format!("http://{http}/boot/profile/{profile}/files/"),
            done: format!("http://{http}/boot/done/{boot}"),
            ssh_keys: cluster.ssh_keys.clone(),
            instance: boot.to_string(),
            profile,
        }
    }

    /// The foreign node one of whose latest boots this is, and what is known of it.
    fn known(&self, boot: &str) -> Option<(Name, Record)> {
        let boot = BootId(boot.to_owned());
        let node = self.present().node(&boot).cloned()?;
        let is_foreign = self.nodes.cluster().nodes.get(&node).is_some_and(|node| node.boot.is_some());
        let record = hand_off(&self.store, &node).ok().filter(|_| is_foreign)?;
        record.has(&boot).then_some((node, record))
    }

    /// The foreign node one of whose latest boots this is.
    pub(super) fn node_of(&self, boot: &str) -> Option<Name> {
        self.known(boot).map(|(node, _)| node)
    }

    /// The node is installed, as it says; `false` where it cannot be, or is not its machine.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(super) fn installed(&self, node: &Name, fetches: Fetches) -> Result<bool, Error> {
        // What others serve, nobody here sees fetched.
        let is_unseen = self.profile(node).is_some_and(|(_, profile)| match &profile.starts {
            Starts::Efi(_) => false,
            Starts::Kernel { kernel, initrds, .. } => matches!(initrds.last().unwrap_or(kernel), BootFile::Url(_)),
        });
        let installed = |record: &mut Record| record.is_of(fetches) && record.installed(is_unseen);
        let is_installed = note_hand_off(&self.store, node, installed)?;
        if is_installed {
            self.timeline.add(Some(node), What::Installed);
        }
        Ok(is_installed)
    }

    /// The node is to be given its profile again. On disk when this returns.
    ///
    /// # Errors
    /// When the disk takes no writes.
    pub(super) fn again(&self, node: &Name) -> Result<(), Error> {
        change_hand_off(&self.store, node, Record::again)
    }

    /// A template of the node whose boot this is. cloud-init's NoCloud wants `meta-data`, which is made where the
    /// folder has none.
    /// Its machine gets them alone, while it installs: there may be secrets in them.
    pub(super) fn template(
        &self,
        boot: &str,
        path: &str,
        fetches: impl FnOnce(&Name) -> Fetches,
        http: SocketAddrV4,
    ) -> Template {
        let Some((node, record)) = self.known(boot) else { return Template::Missing };
        if !record.is_of(fetches(&node)) {
            return Template::NotGiven(
                node,
                "it goes to the machine that was given this boot, and to no other address",
            );
        }
        if !record.is_installing(now()) {
            return Template::NotGiven(node, "its machine is installed, or was given this boot more than an hour ago");
        }
        let found = self.profile(&node).and_then(|profile| Some((profile, self.nodes.declared(&node)?)));
        let Some(((name, profile), declared)) = found else { return Template::Missing };
        let variables = self.variables(&node, &declared, declared.macs[0], http, &BootId(boot.to_owned()));
        let source =
            match profile.templates.as_deref().and_then(|folder| below(&self.nodes.cluster().root, folder, path)) {
                Some(found) => std::fs::read_to_string(found).map_err(|error| error.to_string()),
                None if path == "meta-data" => Ok("instance-id: {{ instance }}\nlocal-hostname: {{ node }}\n".into()),
                None => return Template::Missing,
            };
        match source.and_then(|source| render(&source, &variables).map_err(|error| error.to_string())) {
            Ok(rendered) => Template::Rendered(rendered),
            Err(error) => {
                let sentence = format!("[boot.{name}] template {path}: {error}");
                let what = What::Failed { reason: sentence.clone(), retry_in_seconds: 0, failure: None };
                self.timeline.add(Some(&node), what);
                Template::Failed(sentence)
            }
        }
    }
}

/// What came of a template.
pub(super) enum Template {
    Rendered(String),
    Failed(String),
    /// And why.
    NotGiven(Name, &'static str),
    Missing,
}

#[derive(Default, Serialize)]
struct Variables {
    node: String,
    domain: String,
    role: String,
    mac: String,
    address: String,
    head: String,
    url: String,
    files: String,
    done: String,
    ssh_keys: Vec<String>,
    instance: String,
    profile: String,
}

/// Renders a template; what it does not know is an error and not an empty word.
fn render(text: &str, variables: &Variables) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment.render_str(text, context! { ..minijinja::Value::from_serialize(variables) })
}

/// A file of the repository, where no link on the way leads out of it.
pub(super) fn inside(root: &Path, file: &Path) -> Option<PathBuf> {
    let full = file.canonicalize().ok()?;
    (full.is_file() && full.starts_with(root.canonicalize().ok()?)).then_some(full)
}

/// A path below a folder of the repository, where it stays there; no link leads out of the folder, or out of the repository
/// where the folder is one.
pub(super) fn below(root: &Path, folder: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    inside(root, &folder.join(relative))
        .filter(|full| folder.canonicalize().is_ok_and(|folder| full.starts_with(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_know_the_words_that_are_checked() {
        let variables = serde_json::to_value(Variables::default()).expect("plain data");
        let mut known: Vec<&str> = variables.as_object().expect("fields").keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(known, bramble_model::repository::TEMPLATE_WORDS);
    }

    #[test]
    fn no_path_leaves_its_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inside = folder.path().join("in");
        std::fs::create_dir(&inside).expect("a folder");
        std::fs::write(inside.join("file"), "x").expect("a file");
        std::fs::write(folder.path().join("secret"), "x").expect("a file");
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(folder.path().join(to), folder.path().join(name)).expect("a link");
        };
        link("secret", "in/link");
        let root = folder.path();
        assert!(below(root, &inside, "file").is_some());
        for path in ["../secret", "/etc/passwd", "a/../../secret", "link", "", ".", "none"] {
            assert_eq!(below(root, &inside, path), None, "{path}");
        }
    }

    /// The folder of a profile, or its kernel, as whoever writes the repository names it.
    #[test]
    fn no_link_leads_out_of_the_repository() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (root, out) = (folder.path().join("repository"), folder.path().join("keys"));
        for folder in [&root, &out] {
            std::fs::create_dir(folder).expect("a folder");
            std::fs::write(folder.join("ca.key"), "x").expect("a file");
        }
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.join(name)).expect("a link");
        link(&out, "files");
        link(Path::new("../keys"), "relative");
        link(&out.join("ca.key"), "kernel");
        link(Path::new("ca.key"), "own");
        for name in ["files", "relative"] {
            assert_eq!(below(&root, &root.join(name), "ca.key"), None, "{name}");
            assert_eq!(super::inside(&root, &root.join(name).join("ca.key")), None, "{name}");
        }
        assert_eq!(super::inside(&root, &root.join("kernel")), None);
        assert!(super::inside(&root, &root.join("own")).is_some(), "one that stays there is followed");
    }

    #[test]
    fn the_path_of_a_program_names_its_profile() {
        let name: Name = "tool".parse().expect("a name");
        assert_eq!(profile_of_efi(&efi_path(&name)), Some(name));
        assert_eq!(profile_of_efi("profile/../start.efi"), None);
    }
}
