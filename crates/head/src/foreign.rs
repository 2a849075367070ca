//! Nodes that run another system: what they are handed, their templates, and their word that they are
//! installed.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use bramble_model::names::{BootId, Mac, Name};
use bramble_model::repository::{Node, Profile, Source, Starts};
use bramble_model::timeline::What;
use bramble_netboot::ipxe;
use bramble_plan::hand_off::{Give, Record};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use crate::boot_http::{hex, send_file, tag, text};
use crate::http::Ends;
use crate::{Error, Head};

/// The path of a profile's UEFI program, over TFTP and below `/boot/` over HTTP.
pub(crate) fn efi_path(profile: &Name) -> String {
    format!("profile/{profile}/start.efi")
}

/// The profile whose UEFI program has this path.
pub(crate) fn profile_of_efi(path: &str) -> Option<Name> {
    path.strip_prefix("profile/")?.strip_suffix("/start.efi")?.parse().ok()
}

/// What a foreign node is to be given at this boot.
pub(crate) struct Handed {
    pub(crate) kernel: String,
    pub(crate) initrds: Vec<String>,
    pub(crate) cmdline: String,
}

/// The answer to a foreign node's loader.
pub(crate) enum Answer {
    Kernel(Handed),
    Efi(String),
    Disk,
}

impl Head {
    fn profile(&self, node: &Name) -> Option<(Name, Profile)> {
        let cluster = self.cluster();
        let name = cluster.nodes.get(node)?.boot.clone()?;
        let profile = cluster.boots.get(&name)?.clone();
        Some((name, profile))
    }

    /// What the node would be given now; `None` where it runs bramble's own system.
    pub(crate) fn give(&self, node: &Name) -> Option<Give> {
        let (name, profile) = self.profile(node)?;
        let mut record = self.store.hand_off(node).unwrap_or_default();
        Some(record.give(&name, profile.hand_off))
    }

    /// Decides and notes what this boot is given.
    ///
    /// # Errors
    /// When the store or a template fails; the sentence is for the console.
    pub(crate) fn answer(&self, node: &Name, mac: Mac, http: std::net::SocketAddrV4) -> Result<Option<Answer>, String> {
        let Some((name, profile)) = self.profile(node) else { return Ok(None) };
        let boot = BootId(hex(rand::random::<[u8; 16]>()));
        let give = self.store.change_hand_off(node, |record| {
            let give = record.give(&name, profile.hand_off);
            if give == Give::Profile {
                record.boot = Some(boot.clone());
            }
            give
        });
        if give.map_err(|error| error.to_string())? == Give::Disk {
            self.timeline.add(Some(node), What::BootsDisk);
            return Ok(Some(Answer::Disk));
        }
        self.timeline.add(Some(node), What::ScriptServed { boot: tag(&boot), set: name.to_string() });
        Ok(Some(match &profile.starts {
            Starts::Efi(_) => Answer::Efi(format!("http://{http}/boot/{}?boot={boot}", efi_path(&name))),
            Starts::Kernel { kernel, initrds, cmdline } => {
                let url = |source: &Source, file: &str| match source {
                    Source::Url(url) => url.clone(),
                    Source::File(_) => format!("http://{http}/boot/profile/{name}/{file}?boot={boot}"),
                };
                let urls = initrds.iter().enumerate();
                let declared = self.declared(node).ok_or("it has just left the repository")?;
                let variables = self.variables(node, &declared, mac, http, &boot);
                Answer::Kernel(Handed {
                    kernel: url(kernel, "kernel"),
                    initrds: urls.map(|(index, source)| url(source, &format!("initrd{index}"))).collect(),
                    cmdline: render(cmdline, &variables).map_err(|error| format!("[boot.{name}] cmdline: {error}"))?,
                })
            }
        }))
    }

    /// The last of its files has been fetched: from now on this boot counts.
    pub(crate) fn handed(&self, node: &Name) {
        let Some((name, _)) = self.profile(node) else { return };
        if let Err(error) = self.store.change_hand_off(node, Record::handed) {
            tracing::error!(%error, %node, "a hand-off could not be stored");
        }
        self.timeline.add(Some(node), What::HandedOff { profile: name });
    }

    /// What templates know.
    fn variables(
        &self,
        node: &Name,
        declared: &Node,
        mac: Mac,
        http: std::net::SocketAddrV4,
        boot: &BootId,
    ) -> Variables {
        let cluster = self.cluster();
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

    /// The foreign node whose latest boot this is.
    fn foreign_of_boot(&self, boot: &str) -> Option<Name> {
        let cluster = self.cluster();
        let foreign = cluster.nodes.iter().filter(|(_, node)| node.boot.is_some());
        foreign
            .map(|(name, _)| name)
            .find(|name| {
                let record = self.store.hand_off(name).unwrap_or_default();
                record.boot.is_some_and(|present| present.0 == boot)
            })
            .cloned()
    }
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

/// A path below `folder`, where it stays there; symbolic links may not lead out either.
fn below(folder: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let full = folder.join(relative).canonicalize().ok()?;
    (full.is_file() && full.starts_with(folder.canonicalize().ok()?)).then_some(full)
}

fn missing() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "no such file\n")
}

#[derive(Deserialize)]
pub(crate) struct OfBoot {
    boot: Option<String>,
}

/// `GET /boot/profile/NAME/FILE`: kernel, initrd or UEFI program of a profile.
pub(crate) async fn boot_file(
    State(head): State<Arc<Head>>,
    UrlPath((profile, file)): UrlPath<(String, String)>,
    Query(of): Query<OfBoot>,
    method: Method,
    headers: axum::http::HeaderMap,
) -> Response<Body> {
    let cluster = head.cluster();
    let Some(found) = profile.parse::<Name>().ok().and_then(|name| cluster.boots.get(&name)) else {
        return missing();
    };
    let (path, last) = match &found.starts {
        Starts::Efi(path) if file == "start.efi" => (path, true),
        Starts::Kernel { kernel: Source::File(path), initrds, .. } if file == "kernel" => (path, initrds.is_empty()),
        Starts::Kernel { initrds, .. } => {
            let index = file.strip_prefix("initrd").and_then(|index| index.parse::<usize>().ok());
            match index.and_then(|index| Some((index, initrds.get(index)?))) {
                Some((index, Source::File(path))) => (path, index + 1 == initrds.len()),
                _ => return missing(),
            }
        }
        Starts::Efi(_) => return missing(),
    };
    let response = send_file(path, &headers).await;
    if last
        && method == Method::GET
        && response.status().is_success()
        && let Some(node) = of.boot.as_deref().and_then(|boot| head.foreign_of_boot(boot))
    {
        head.handed(&node);
    }
    response
}

/// `GET /boot/profile/NAME/files/PATH`: a file of a profile as it is.
pub(crate) async fn static_file(
    State(head): State<Arc<Head>>,
    UrlPath((profile, path)): UrlPath<(String, String)>,
    headers: axum::http::HeaderMap,
) -> Response<Body> {
    let cluster = head.cluster();
    let profile = profile.parse::<Name>().ok().and_then(|name| cluster.boots.get(&name));
    match profile.and_then(|profile| below(profile.files.as_deref()?, &path)) {
        Some(path) => send_file(&path, &headers).await,
        None => missing(),
    }
}

/// `GET /boot/seed/BOOT/FILE`: a template of the node whose boot this is. cloud-init's NoCloud wants
/// `meta-data`, which is made where the folder has none.
pub(crate) async fn seed(
    State(head): State<Arc<Head>>,
    Extension(ends): Extension<Ends>,
    UrlPath((boot, path)): UrlPath<(String, String)>,
) -> Response<Body> {
    let Some(node) = head.foreign_of_boot(&boot) else { return missing() };
    let Some((name, profile)) = head.profile(&node) else { return missing() };
    let Some(declared) = head.declared(&node) else { return missing() };
    let variables = head.variables(&node, &declared, declared.macs[0], ends.http(&head), &BootId(boot));
    let source = match profile.templates.as_deref().and_then(|folder| below(folder, &path)) {
        Some(found) => std::fs::read_to_string(found).map_err(|error| error.to_string()),
        None if path == "meta-data" => Ok("instance-id: {{ instance }}\nlocal-hostname: {{ node }}\n".into()),
        None => return missing(),
    };
    match source.and_then(|source| render(&source, &variables).map_err(|error| error.to_string())) {
        Ok(rendered) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], rendered).into_response(),
        Err(error) => {
            let sentence = format!("[boot.{name}] template {path}: {error}");
            head.timeline.add(Some(&node), What::Failed { reason: sentence.clone(), retry_in_seconds: 0 });
            text(StatusCode::INTERNAL_SERVER_ERROR, sentence + "\n")
        }
    }
}

/// `GET` or `POST /boot/done/BOOT`: the node says that it is installed. Installers often have nothing
/// but a `wget` that gets.
pub(crate) async fn done(State(head): State<Arc<Head>>, UrlPath(boot): UrlPath<String>) -> Response<Body> {
    let Some(node) = head.foreign_of_boot(&boot) else { return missing() };
    match head.store.change_hand_off(&node, Record::installed) {
        Ok(()) => {
            head.timeline.add(Some(&node), What::Installed);
            text(StatusCode::OK, "installed\n")
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// What Pixiecore asks its API server for.
#[derive(Serialize)]
struct PixieBoot {
    kernel: String,
    initrd: Vec<String>,
    cmdline: String,
}

/// `GET /v1/boot/MAC`: Pixiecore's HTTP boot API (its `README.api.md`): what to boot, or 404 to leave
/// the machine alone.
pub(crate) async fn pixiecore(
    State(head): State<Arc<Head>>,
    Extension(ends): Extension<Ends>,
    UrlPath(mac): UrlPath<String>,
) -> Response<Body> {
    let Ok(mac) = mac.parse::<Mac>() else { return text(StatusCode::BAD_REQUEST, "not a MAC address\n") };
    let Some(node) = head.node_of(mac) else {
        head.saw_unknown(mac, "a machine that asks by Pixiecore".into(), None);
        return text(StatusCode::NOT_FOUND, "this machine is not in the repository\n");
    };
    let http = ends.http(&head);
    let answered = match head.answer(&node, mac, http) {
        Ok(Some(Answer::Kernel(handed))) => Ok(handed),
        Ok(Some(Answer::Efi(_))) => Err("Pixiecore cannot start a UEFI program\n".to_owned()),
        Ok(Some(Answer::Disk)) => Err("it boots its disk\n".to_owned()),
        Ok(None) => {
            let made = head.new_boot(&node, mac, bramble_netboot::Cpu::Amd64, http, |arguments, set| {
                let [kernel, initrd] = arguments.files(&set.manifest.kernel.sha256, &set.manifest.initrd.sha256);
                Handed { kernel, initrds: vec![initrd], cmdline: arguments.render(&ipxe::Addresses::ipxe()) }
            });
            made.map_err(|reason| reason + "\n")
        }
        Err(reason) => Err(reason + "\n"),
    };
    match answered {
        Ok(Handed { kernel, initrds, cmdline }) => Json(PixieBoot { kernel, initrd: initrds, cmdline }).into_response(),
        Err(reason) => text(StatusCode::NOT_FOUND, reason),
    }
}

/// A node is to be given its profile again.
pub(crate) fn again(head: &Head, node: &Name) -> Result<(), Error> {
    head.store.change_hand_off(node, Record::again)
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
        std::os::unix::fs::symlink(folder.path().join("secret"), inside.join("link")).expect("a link");
        assert!(below(&inside, "file").is_some());
        for path in ["../secret", "/etc/passwd", "a/../../secret", "link", "", ".", "none"] {
            assert_eq!(below(&inside, path), None, "{path}");
        }
    }

    #[test]
    fn the_path_of_a_program_names_its_profile() {
        let name: Name = "tool".parse().expect("a name");
        assert_eq!(profile_of_efi(&efi_path(&name)), Some(name));
        assert_eq!(profile_of_efi("profile/../start.efi"), None);
    }
}
