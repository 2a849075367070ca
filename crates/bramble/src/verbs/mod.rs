//! The verbs, a file each.

mod adopt;
mod backup;
mod check;
mod hands;
mod image;
mod init;
mod lab;
mod node;
mod people;
mod plan;
mod power;
mod router_recipe;
mod serve;
mod status;
mod top;
mod up;
mod why;

use std::io::Write as _;

use anyhow::{Context, Result};
use bramble_model::hands::Errand;

use crate::cli::{Arguments, Exit, ImageVerb, LabVerb, NodeVerb, TokenVerb, UserVerb, Verb, Where};
use crate::screen;
use crate::workspace::STAGE1;

/// The person pressed Ctrl-C; everything has been put away.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; nothing is left behind")
    }
}

impl std::error::Error for Interrupted {}

/// Runs one verb.
pub fn run(arguments: Arguments) -> Result<Exit> {
    let json = arguments.json;
    match arguments.verb {
        Verb::Init { folder } => init::run(&folder),
        Verb::Check(place) => check::run(&place, json),
        Verb::Plan(place) => wait(plan::run(&place, json)),
        Verb::Schema => screen::json(&bramble_model::repository::schema()).map(|()| Exit::Done),
        Verb::Image(verb) => match verb {
            ImageVerb::Build { place, refresh } => image::build(&place, refresh, json),
            ImageVerb::Ls(place) => image::list(&place, json),
            ImageVerb::Inspect { set, place } => image::inspect(set.as_deref(), &place.into(), json),
            ImageVerb::Gc { place, keep } => image::sweep(&place, keep, json),
            ImageVerb::Pack { program, tag, output } => image::pack(&program, &tag, &output),
        },
        Verb::Serve { place, lab } => serve::run(&place, lab),
        Verb::Up { place, limit } => wait(up::run(&place, limit, json)),
        Verb::Status(place) => wait(status::run(&place, json)),
        Verb::Node(verb) => match verb {
            NodeVerb::Ls(place) => wait(status::nodes(&place, json)),
            NodeVerb::Show { node, place } => wait(node::show(&node, &place.into(), json)),
            NodeVerb::Reinstall { node, place } => wait(node::reinstall(&node, &place.into())),
            NodeVerb::Revoke { node, place } => wait(node::revoke(&node, &place.into())),
            NodeVerb::Approve { node, fingerprint, place } => wait(node::approve(&node, &fingerprint, &place.into())),
        },
        Verb::Why { machine, place } => wait(why::run(&machine, &place.into(), json)),
        Verb::RouterRecipe { router, head, place } => router_recipe::run(router, head, &place.into(), json),
        Verb::Power { action, node, place } => wait(power::run(action, &node, &place.into())),
        Verb::Lab(verb) => match verb {
            LabVerb::Up { place, check, off, limit } => lab::up(&place, check, off, limit, json),
            LabVerb::Down(place) => wait(lab::down(&place)),
            LabVerb::Ls(place) => wait(lab::list(&place, json)),
            LabVerb::Console { node, follow, place } => lab::console(&node, follow, &place.into()),
            LabVerb::Power { action, node, place } => wait(lab::power(action, &node, &place.into())),
            LabVerb::Inside { place, forward } => lab::inside(&place, &forward),
        },
        Verb::Login { head, user, token, ca } => wait(people::login(&head, user, token, ca)),
        Verb::Logout { head } => wait(people::logout(head)),
        Verb::User(verb) => match verb {
            UserVerb::Ls(place) => wait(people::users(&place, json)),
            UserVerb::Set { name, role, password, place } => {
                wait(people::put_user(&name, role, password, &place.into()))
            }
            UserVerb::Rm { name, place } => wait(people::remove_user(&name, &place.into())),
        },
        Verb::Token(verb) => match verb {
            TokenVerb::Ls(place) => wait(people::tokens(&place, json)),
            TokenVerb::Add { name, role, days, place } => wait(people::add_token(&name, role, days, &place.into())),
            TokenVerb::Rm { name, place } => wait(people::remove_token(&name, &place.into())),
        },
        Verb::Adopt { mac, name, role, write, again, limit, place } => {
            wait(adopt::run(mac, adopt::Wishes { name, role, write, again, limit }, &place.into(), json))
        }
        Verb::Exec { at: Where { nodes, role }, input, place, command } => {
            let nodes = hands::set(nodes, role, None)?;
            wait(hands::exec(&nodes, command, input, &place.into(), json))
        }
        Verb::Shell { node, place } => wait(hands::shell(&node, &place.into())),
        Verb::Logs { at: Where { nodes, role }, follow, lines, unit, place } => {
            let nodes = hands::set(nodes, role, Some("all"))?;
            wait(hands::logs(&nodes, unit, follow, lines, &place.into()))
        }
        Verb::Cp { from, to, place } => wait(hands::copy(&from, &to, &place.into())),
        Verb::Reboot { nodes, place } => wait(hands::send_down(&nodes, Errand::Reboot, &place.into())),
        Verb::Halt { nodes, place } => wait(hands::send_down(&nodes, Errand::Halt, &place.into())),
        Verb::Top { role, once, place } => wait(top::run(role, &place.into(), once, json)),
        Verb::Audit { last, place } => wait(people::audit(last, &place.into(), json)),
        Verb::Backup { output, place } => wait(backup::make(output, &place.into())),
        Verb::Restore { backup, place } => backup::restore(&backup, &place.into()),
        Verb::Agent => agent(),
        Verb::Stage1 => {
            std::io::stdout().write_all(STAGE1)?;
            Ok(Exit::Done)
        }
    }
}

/// Runs a verb that waits for others.
fn wait(work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    runtime()?.block_on(work)
}

/// One thread is enough for all but the head.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Logs fields as lines; on a node they go to the journal, which has its own time.
fn log() {
    let level = std::env::var("BRAMBLE_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

fn agent() -> Result<Exit> {
    log();
    let never = runtime()?.block_on(bramble_node::run(env!("CARGO_PKG_VERSION")))?;
    match never {}
}

/// The person's wish to end: Ctrl-C, or the system's. From its making on, none is missed.
struct Interrupts([tokio::signal::unix::Signal; 3]);

impl Interrupts {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Interrupts([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Completes when there is one.
    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Completes when the person presses Ctrl-C or the system asks to end.
async fn interrupted() -> Result<()> {
    Interrupts::listen()?.next().await;
    Ok(())
}
