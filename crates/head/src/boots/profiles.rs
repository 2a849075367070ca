//! What nodes that run another system fetch over HTTP, and where they say that they are installed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{Method, Response, StatusCode};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use bramble_boot::Cpu;
use bramble_model::names::{Digest, Mac, Name};
use bramble_model::repository::{BootFile, Starts};
use bramble_model::timeline::What;
use bramble_netboot::ipxe;
use serde::{Deserialize, Serialize};

use super::foreign::{Template, below, inside};
use super::given::{Given, Handed};
use super::http::{send_file, text};
use super::{Asker, Boots};
use crate::ends::Ends;

fn missing() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "no such file\n")
}

#[derive(Deserialize)]
pub(crate) struct OfBoot {
    boot: Option<String>,
    /// SHA-256 of what the file contained when this boot was handed out.
    content: Option<Digest>,
}

/// `GET /boot/profile/NAME/FILE`: kernel, initrd or UEFI program of a profile.
pub(crate) async fn boot_file(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    UrlPath((profile, file)): UrlPath<(String, String)>,
    Query(of): Query<OfBoot>,
    method: Method,
    headers: axum::http::HeaderMap,
) -> Response<Body> {
    let cluster = boots.nodes.cluster();
    let Some(found) = profile.parse::<Name>().ok().and_then(|name| cluster.boots.get(&name)) else {
        return missing();
    };
    let (path, last) = match &found.starts {
        Starts::Efi(path) if file == "start.efi" => (path, true),
        Starts::Kernel { kernel: BootFile::File(path), initrds, .. } if file == "kernel" => (path, initrds.is_empty()),
        Starts::Kernel { initrds, .. } => {
            let index = file.strip_prefix("initrd").and_then(|index| index.parse::<usize>().ok());
            match index.and_then(|index| Some((index, initrds.get(index)?))) {
                Some((index, BootFile::File(path))) => (path, index + 1 == initrds.len()),
                _ => return missing(),
            }
        }
        Starts::Efi(_) => return missing(),
    };
    // What was handed out and is gone is nothing: a kernel with another one's initrd is no system.
    let kept;
    let path = match of.content {
        Some(content) if boots.nodes.content_of(path) != Some(content) => {
            kept = boots.own.shelf.file(&content);
            &kept
        }
        Some(_) | None => {
            let Some(own) = inside(&cluster.root, path) else { return missing() };
            kept = own;
            &kept
        }
    };
    let response = send_file(path, &headers).await;
    if last
        && method == Method::GET
        && response.status().is_success()
        && let Some(node) = of.boot.as_deref().and_then(|boot| boots.foreign.node_of(boot))
    {
        boots.foreign.handed(&node, boots.fetches(&node, *ends.peer.ip()));
    }
    response
}

/// `GET /boot/profile/NAME/files/PATH`: a file of a profile as it is.
pub(crate) async fn static_file(
    State(boots): State<Arc<Boots>>,
    UrlPath((profile, path)): UrlPath<(String, String)>,
    headers: axum::http::HeaderMap,
) -> Response<Body> {
    let cluster = boots.nodes.cluster();
    let profile = profile.parse::<Name>().ok().and_then(|name| cluster.boots.get(&name));
    match profile.and_then(|profile| below(&cluster.root, profile.files.as_deref()?, &path)) {
        Some(path) => send_file(&path, &headers).await,
        None => missing(),
    }
}

/// `GET /boot/seed/BOOT/FILE`: a template of the node whose boot this is.
pub(crate) async fn seed(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    UrlPath((boot, path)): UrlPath<(String, String)>,
) -> Response<Body> {
    let fetches = |node: &Name| boots.fetches(node, *ends.peer.ip());
    match boots.foreign.template(&boot, &path, fetches, boots.wires.http_at(*ends.local.ip())) {
        Template::Rendered(rendered) => text(StatusCode::OK, rendered),
        Template::Failed(sentence) => text(StatusCode::INTERNAL_SERVER_ERROR, sentence + "\n"),
        Template::NotGiven(node, reason) => {
            let what = format!("its template {path} was asked for from {}, and not given: {reason}", ends.peer.ip());
            boots.refuses(&node, What::Note { text: what });
            text(StatusCode::FORBIDDEN, format!("{reason}\n"))
        }
        Template::Missing => missing(),
    }
}

/// `POST /boot/done/BOOT`: the node says that it is installed, from the place of its card, after it has fetched its files.
pub(crate) async fn done(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    UrlPath(boot): UrlPath<String>,
) -> Response<Body> {
    let Some(node) = boots.foreign.node_of(&boot) else { return missing() };
    match boots.foreign.installed(&node, boots.fetches(&node, *ends.peer.ip())) {
        Ok(true) => text(StatusCode::OK, "installed\n"),
        Ok(false) => {
            let from = ends.peer.ip();
            let what = format!(
                "that it is installed was said from {from}, and not believed: it has fetched nothing, or is not there"
            );
            boots.refuses(&node, What::Note { text: what });
            text(StatusCode::FORBIDDEN, "the machine itself says so, when it has fetched what it was given to boot\n")
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// `GET /boot/done/BOOT`, as installers said so before: a page in someone's browser can say it, too. It is told to the
/// machine, and to whoever looks at the node.
pub(crate) async fn done_by_get(State(boots): State<Arc<Boots>>, UrlPath(boot): UrlPath<String>) -> Response<Body> {
    let Some(node) = boots.foreign.node_of(&boot) else { return missing() };
    let wanted = "that it is installed is said by POST now: `wget -O- --post-data= URL`, in its profile's templates";
    boots.refuses(&node, What::Note { text: wanted.into() });
    text(StatusCode::METHOD_NOT_ALLOWED, format!("{wanted}\n"))
}

/// What Pixiecore asks its API server for.
#[derive(Serialize)]
struct PixieBoot {
    kernel: String,
    initrd: Vec<String>,
    cmdline: String,
}

/// `GET /v1/boot/MAC`: Pixiecore's HTTP boot API (its `README.api.md`): what to boot, or 404 to leave
/// the machine alone. Only for the address that the repository names, and nobody is let in by it.
pub(crate) async fn pixiecore(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    UrlPath(mac): UrlPath<String>,
) -> Response<Body> {
    if boots.wires.network().pixiecore != Some(*ends.peer.ip()) {
        let reason = "`[network] pixiecore` of bramble.toml does not name this address\n";
        return text(StatusCode::FORBIDDEN, reason);
    }
    let Ok(mac) = mac.parse::<Mac>() else { return text(StatusCode::BAD_REQUEST, "not a MAC address\n") };
    let Some(node) = boots.nodes.of_card(mac) else {
        boots.strangers.saw(mac, bramble_boot::Asker::Pixiecore, None);
        return text(StatusCode::NOT_FOUND, "this machine is not in the repository\n");
    };
    let http = boots.wires.http_at(*ends.local.ip());
    let answered = match boots.hand_out(&node, mac, Asker::Pixiecore, Cpu::Amd64, (*ends.peer.ip(), http)) {
        Ok(Given::Kernel(handed)) => Ok(handed),
        Ok(Given::Efi(_)) => Err("Pixiecore cannot start a UEFI program\n".to_owned()),
        Ok(Given::Disk) => Err("it boots its disk\n".to_owned()),
        Ok(Given::Own(own)) => {
            let [kernel, initrd] = own.urls();
            Ok(Handed { kernel, initrds: vec![initrd], cmdline: own.words().render(&ipxe::addresses()) })
        }
        Err(reason) => Err(reason + "\n"),
    };
    match answered {
        Ok(Handed { kernel, initrds, cmdline }) => Json(PixieBoot { kernel, initrd: initrds, cmdline }).into_response(),
        Err(reason) => text(StatusCode::NOT_FOUND, reason),
    }
}
