//! GRUB, which machines get whose firmware starts signed programs only: its menus.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use bramble_boot::Cpu;
use bramble_model::names::{Mac, Name};
use bramble_netboot::grub;
use bramble_netboot::tftp::Content;
use bramble_system::now;

use super::given::{Given, Handed};
use super::http::text;
use super::{Asker, Boots, Way};
use crate::ends::Ends;
use crate::store::beside;

impl Boots {
    /// What GRUB gets by this path.
    pub(super) fn grub(&self, path: &str, from: Ipv4Addr, by: Way) -> Option<Content> {
        let (cpu, mac) = match grub::asked(path)? {
            grub::Asked::Configuration => return Some(Content::Memory(grub::CONFIGURATION.as_bytes().into())),
            grub::Asked::Menu(cpu, mac) => (cpu, mac),
        };
        let Some(node) = self.nodes.of_card(mac) else {
            self.strangers.saw(mac, bramble_boot::Asker::Grub, None);
            return None;
        };
        let asker = match self.asker(&node, mac, from, by) {
            Ok(asker) => asker,
            Err(reason) => return Some(Content::Memory(grub::ask_again_menu(&reason).into_bytes().into())),
        };
        self.chains.runs(&node);
        let menu = || Some(self.menu(&node, mac, asker, cpu, from).unwrap_or_else(|reason| grub::wait_menu(&reason)));
        self.made.of((mac, asker.card().is_some()), now(), menu)
    }

    /// The menu of a new boot; or the reason why there is none.
    fn menu(&self, node: &Name, mac: Mac, asker: Asker, cpu: Cpu, from: Ipv4Addr) -> Result<String, String> {
        let http = self.wires.http_beside(from);
        match self.hand_out(node, mac, asker, cpu, (from, http))? {
            Given::Kernel(Handed { kernel, initrds, cmdline }) => grub::menu(node, &kernel, &cmdline, &initrds),
            Given::Efi(url) => grub::chain_menu(node, &url),
            Given::Disk => Ok(grub::disk_menu(mac)),
            Given::Own(own) => {
                let [kernel, initrd] = own.urls();
                grub::menu(node, &kernel, &own.words().render(&self.wires.addresses(from, mac)), &[initrd])
            }
        }
    }
}

/// `GET /grub/PATH`: what GRUB asks for that came over HTTP.
pub(crate) async fn file(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    Path(path): Path<String>,
) -> Response<Body> {
    let from = *ends.peer.ip();
    match beside(move || boots.grub(&format!("grub/{path}"), from, Way::Stream)).await {
        Some(Content::Memory(bytes)) => Bytes::from_owner(bytes).into_response(),
        _ => text(StatusCode::NOT_FOUND, "no such file\n"),
    }
}
