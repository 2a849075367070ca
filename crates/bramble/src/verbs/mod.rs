//! The verbs, a file each.

mod adopt;
mod audit;
mod backup;
mod ca;
mod check;
mod desired;
mod engine;
mod hands;
mod head;
mod image;
mod init;
mod lab;
pub mod node;
mod people;
mod power;
mod router_recipe;
mod serve;
mod session;
mod signing;
mod source;
mod ssh;
mod status;
mod store;
mod top;
mod up;
mod why;

use std::io::Write as _;

use anyhow::Result;
use bramble_model::hands::Errand;
use bramble_model::repository::Source;

use crate::cli::{
    Arguments, BackupVerb, CaVerb, EngineVerb, HeadVerb, ImageKeyVerb, ImageVerb, LabVerb, NodeVerb, SessionVerb,
    SourceVerb, SshVerb, StoreVerb, TokenVerb, UserVerb, Verb, Where,
};
use crate::exit::Exit;
use crate::process::{log, runtime, wait, wait_for_person};
use crate::screen;
use crate::workspace::STAGE1;

use backup::Keys;

/// Runs one verb.
pub fn run(arguments: Arguments) -> Result<Exit> {
    let Arguments { json, place, verb } = arguments;
    let place = &place;
    match verb {
        Verb::Init { folder } => init::run(&folder),
        Verb::Check => check::run(place, json),
        Verb::Plan { revision, exit_code } => wait(desired::plan(place, revision, exit_code, json)),
        Verb::Apply { revision, yes } => wait(desired::apply(place, revision, yes, json)),
        Verb::History => wait(desired::history(place, json)),
        Verb::Rollback { revision, yes } => wait(desired::rollback(place, revision, yes, json)),
        Verb::Sync => wait(source::sync(place, json)),
        Verb::Source(verb) => match verb {
            SourceVerb::Set { url, branch, path, token_file, signers } => {
                // It may be served from another folder.
                let token_file = token_file.map(std::path::absolute).transpose()?;
                source::set(place, &Source { git: url, branch, every: 30, path, signers, token_file })
            }
            SourceVerb::Key => wait(source::key(place, json)),
            SourceVerb::Hold => wait(source::hold(place)),
            SourceVerb::ForgetHost => wait(source::forget_host(place)),
        },
        Verb::Ssh(SshVerb::KnownHosts) => wait(ssh::known_hosts(place, json)),
        Verb::Retry { what } => wait(desired::retry(place, &what)),
        Verb::Engine(verb) => match verb {
            EngineVerb::Start { without, yes, .. } => wait(engine::start(place, &without, yes)),
            EngineVerb::GiveUp { cluster, yes, .. } => wait(engine::give_up(place, &cluster, yes)),
            EngineVerb::Trust { ca, yes, .. } => wait(engine::trust(place, &ca, yes)),
        },
        Verb::Ca(verb) => match verb {
            CaVerb::Show => wait(ca::show(place, json)),
            CaVerb::Rotate { finish: false, yes } => wait(ca::rotate(place, yes, json)),
            CaVerb::Rotate { finish: true, yes } => wait(ca::finish(place, yes)),
        },
        Verb::Schema => screen::json(&bramble_model::repository::schema()).map(|()| Exit::Done),
        Verb::Image(verb) => match verb {
            ImageVerb::Build { refresh, folder } => image::build(place, refresh, folder, json),
            ImageVerb::Use { set } => image::give(&set, place),
            ImageVerb::Ls => image::list(place, json),
            ImageVerb::Inspect { set } => image::inspect(set.as_deref(), place, json),
            ImageVerb::Gc { keep } => image::sweep(place, keep, json),
            ImageVerb::Sign { set, key, days, yes } => signing::sign(&set, key.as_deref(), days, yes, place),
            ImageVerb::Forbid { set, yes } => signing::forbid(&set, yes, place),
            ImageVerb::Key(ImageKeyVerb::Show) => signing::show(place, json),
            ImageVerb::Key(ImageKeyVerb::Make { file }) => signing::make(&file),
            ImageVerb::Key(ImageKeyVerb::Rotate { to, finish, abandon, yes }) => {
                signing::rotate(to.as_deref(), finish, abandon, yes, place)
            }
            ImageVerb::Pack { program, tag, output } => image::pack(&program, &tag, &output),
        },
        Verb::Serve { lab } => serve::run(place, lab),
        Verb::Up { limit, yes } => wait(up::run(place, limit, yes, json)),
        Verb::Status => wait(status::run(place, json)),
        Verb::Node(verb) => match verb {
            NodeVerb::Ls => wait(status::nodes(place, json)),
            NodeVerb::Show { node } => wait(node::show(&node, place, json)),
            NodeVerb::Expect { node } => wait(node::expect(&node, place, json)),
            NodeVerb::Reinstall { node } => wait(node::reinstall(&node, place)),
            NodeVerb::Revoke { node } => wait(node::revoke(&node, place)),
            NodeVerb::Approve { node, shown, press } => {
                wait(node::approve(node.as_ref(), shown.as_ref(), press, place, json))
            }
        },
        Verb::Why { machine } => wait(why::run(&machine, place, json)),
        Verb::RouterRecipe { router, head } => router_recipe::run(router, head, place, json),
        Verb::Power { action, node } => wait(power::run(action, &node, place, json)),
        Verb::Lab(verb) => match verb {
            LabVerb::Up { check, off, limit } => lab::up(place, check, off, limit, json),
            LabVerb::Down => wait(lab::down(place)),
            LabVerb::Ls => wait(lab::list(place, json)),
            LabVerb::Console { node, follow } => lab::console(&node, follow, place),
            LabVerb::Power { action, node } => wait(lab::power(action, &node, place)),
            LabVerb::Inside { forward } => lab::inside(place, &forward),
        },
        Verb::Login { head, user, token, ca } => wait_for_person(people::login(&head, user, token, ca)),
        Verb::Logout { head } => wait(people::logout(head)),
        Verb::User(verb) => match verb {
            UserVerb::Ls => wait(people::users(place, json)),
            UserVerb::Set { name, role, password } => wait_for_person(people::put_user(&name, role, password, place)),
            UserVerb::Rm { name } => wait(people::remove_user(&name, place)),
        },
        Verb::Token(verb) => match verb {
            TokenVerb::Ls => wait(people::tokens(place, json)),
            TokenVerb::Add { name, role, days } => wait(people::add_token(&name, role, days, place)),
            TokenVerb::Rm { name } => wait(people::remove_token(&name, place)),
        },
        Verb::Adopt { mac, name, role, write, again, limit } => {
            wait(adopt::run(mac, adopt::Wishes { name, role, write, again, limit }, place, json))
        }
        Verb::Exec { at: Where { nodes, role }, input, command } => {
            let nodes = hands::set(nodes, role, None)?;
            wait(hands::exec(&nodes, command, input, place, json))
        }
        Verb::Shell { node } => wait(hands::shell(&node, place)),
        Verb::Logs { at: Where { nodes, role }, follow, lines, unit } => {
            let nodes = hands::set(nodes, role, Some("all"))?;
            wait(hands::logs(&nodes, unit, follow, lines, place))
        }
        Verb::Cp { from, to } => wait(hands::copy(&from, &to, place)),
        Verb::Reboot { nodes } => wait(hands::send_down(&nodes, Errand::Reboot, place)),
        Verb::Halt { nodes } => wait(hands::send_down(&nodes, Errand::Halt, place)),
        Verb::Top { role, once } => wait(top::run(role, place, once, json)),
        Verb::Session(verb) => match verb {
            SessionVerb::Ls { user } => wait(session::list(user.as_deref(), place, json)),
            SessionVerb::Rm { session } => wait(session::remove(&session, place)),
        },
        Verb::Audit { verify: true, copy, .. } => wait(audit::verify(copy.as_deref(), place, json)),
        Verb::Audit { last, follow, .. } => wait(audit::list(last, follow, place, json)),
        Verb::Backup { verb: Some(BackupVerb::Keygen { output }), .. } => backup::keygen(output, json),
        Verb::Backup { output, verb: None } => wait(backup::make(output, place)),
        Verb::Restore { backup, identity, seal, yes } => backup::restore(&backup, &Keys { identity, seal, yes }, place),
        Verb::Head(verb) => match verb {
            HeadVerb::RotateSeal => head::rotate_seal(place),
            HeadVerb::Unseal => head::unseal(place),
            HeadVerb::SaveSeal { file } => head::save_seal(&file, place),
        },
        Verb::Store(StoreVerb::Repair { yes }) => wait(store::repair(yes, place, json)),
        Verb::Agent => agent(),
        Verb::Stage1 => {
            std::io::stdout().write_all(STAGE1)?;
            Ok(Exit::Done)
        }
    }
}

fn agent() -> Result<Exit> {
    log();
    let never = runtime()?.block_on(bramble_node::run(env!("CARGO_PKG_VERSION")))?;
    match never {}
}
