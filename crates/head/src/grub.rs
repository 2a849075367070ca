//! Machines whose firmware starts signed programs only: which chain each is given, and GRUB's menus.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use bramble_model::names::{Mac, Name};
use bramble_netboot::tftp::Content;
use bramble_netboot::{Cpu, grub, ipxe};
use bramble_plan::chain::{Chain, Learned};

use crate::Head;
use crate::boot_http::text;
use crate::foreign::{Answer, Handed};
use crate::http::Ends;

/// What is learned of the machines while the head runs. The chain that ran is in the store.
#[derive(Default)]
pub(crate) struct Chains(Mutex<HashMap<Name, Learned>>);

impl Head {
    fn with_learned<T>(&self, node: &Name, work: impl FnOnce(&mut Learned) -> T) -> T {
        let mut chains = self.chains.0.lock().expect("no panic while held");
        let learned =
            chains.entry(node.clone()).or_insert_with(|| Learned::from(self.store.chain(node).unwrap_or_default()));
        work(learned)
    }

    /// The chain that this node's firmware is to be given now.
    pub(crate) fn chain(&self, node: &Name) -> Chain {
        let declared = self.declared(node).and_then(|node| node.secure_boot);
        self.with_learned(node, |learned| learned.give(declared))
    }

    /// A loader left whole: the first program of a chain is on trial.
    pub(crate) fn loader_sent(&self, node: &Name, file: &str) {
        if [grub::SHIM_X64, grub::SHIM_ARM64].contains(&file) {
            self.with_learned(node, |learned| learned.sent(Chain::Signed));
        } else if [ipxe::UEFI_X64_LOADER, ipxe::UEFI_ARM64_LOADER].contains(&file) {
            self.with_learned(node, |learned| learned.sent(Chain::Plain));
        }
    }

    /// A loader of this node runs: what it was given works.
    pub(crate) fn loader_runs(&self, node: &Name) {
        // A loader asks several times; the store is looked at for the first.
        let Some(ran) = self.with_learned(node, |learned| learned.on_trial().then(|| learned.ran())) else { return };
        if self.store.chain(node).unwrap_or_default() == ran {
            return;
        }
        if let Err(error) = self.store.put_chain(node, ran) {
            tracing::error!(%error, %node, "the chain that runs could not be stored");
        }
    }

    /// What GRUB gets by this path.
    pub(crate) fn grub(&self, path: &str, from: Ipv4Addr) -> Option<Content> {
        let (cpu, mac) = match grub::asked(path)? {
            grub::Asked::Configuration => return Some(Content::Memory(grub::CONFIGURATION.as_bytes().into())),
            grub::Asked::Menu(cpu, mac) => (cpu, mac),
        };
        let Some(node) = self.node_of(mac) else {
            self.saw_unknown(mac, "GRUB".into(), None);
            return None;
        };
        self.wire.learn(from, mac);
        self.loader_runs(&node);
        let menu = || Some(self.menu(&node, mac, cpu, from).unwrap_or_else(|reason| grub::wait_menu(&reason)));
        self.wire.made(mac, menu)
    }

    /// The menu of a new boot; or the reason why there is none.
    fn menu(&self, node: &Name, mac: Mac, cpu: Cpu, from: Ipv4Addr) -> Result<String, String> {
        let http = self.http_beside(from);
        match self.answer(node, mac, http)? {
            Some(Answer::Kernel(Handed { kernel, initrds, cmdline })) => grub::menu(node, &kernel, &cmdline, &initrds),
            Some(Answer::Efi(url)) => grub::chain_menu(node, &url),
            Some(Answer::Disk) => Ok(grub::disk_menu(mac)),
            None => {
                let own = self.addresses(from, mac);
                self.new_boot(node, mac, cpu, http, |arguments, set| {
                    let [kernel, initrd] = arguments.files(&set.manifest.kernel.sha256, &set.manifest.initrd.sha256);
                    grub::menu(node, &kernel, &arguments.render(&own), &[initrd])
                })?
            }
        }
    }
}

/// `GET /grub/PATH`: what GRUB asks for that came over HTTP.
pub(crate) async fn file(
    State(head): State<Arc<Head>>,
    Extension(ends): Extension<Ends>,
    Path(path): Path<String>,
) -> Response<Body> {
    let from = *ends.peer.ip();
    let made = tokio::task::spawn_blocking(move || head.grub(&format!("grub/{path}"), from));
    match made.await {
        Ok(Some(Content::Memory(bytes))) => Bytes::from_owner(bytes).into_response(),
        Ok(_) => text(StatusCode::NOT_FOUND, "no such file\n"),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
