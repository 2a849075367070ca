//! `bramble lab …`

mod proof;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bramble_lab::{HEAD, HEAD_TLS, Lab, Places, Plan};
use bramble_model::api::PowerAction;
use bramble_model::names::Name;
use bramble_power::lab::{Reply, Request, ask};

use crate::cli::Switch;
use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::process::{Interrupted, interrupted, log, runtime};
use crate::screen;
use crate::target::NoHead;
use crate::verbs::{image, up};
use crate::workspace::{BootSets, Material, Workspace};

/// A head may look for other DHCP servers for some seconds before it starts.
const START: Duration = Duration::from_secs(60);

pub fn up(place: &Place, check: bool, off: bool, limit: u64, json: bool) -> Result<Exit> {
    let workspace = Workspace::open(place)?;
    // The lab applies the folder that it is given, so that is what its machines boot.
    let from = Material::of_folder(&place.repository()?)?;
    image::build_interruptibly(&BootSets::at(workspace.state.clone())?, &from, false, json)?;
    let network = &workspace.cluster.network;
    let mut forwards = vec![(HEAD.to_owned(), network.http_port), (HEAD_TLS.to_owned(), network.https_port)];
    forwards.extend(workspace.cluster.lab.check.iter().map(|check| (check.workload.to_string(), check.port)));
    let repository = place.repository()?.canonicalize().context("cannot find the repository")?;
    let state = workspace.state.canonicalize().context("cannot find the state folder")?;
    let runtime = runtime()?;
    let mut lab = Lab::start(&repository, &state, &Plan { forwards })?;
    let result = runtime.block_on(async {
        tokio::select! {
            ended = interrupted() => ended.and_then(|()| Err(Interrupted.into())),
            result = run(&workspace, &mut lab, check, off, Duration::from_secs(limit), json) => result,
        }
    });
    lab.end();
    match result {
        // Ctrl-C is how a person ends a lab that is up.
        Err(error) if error.is::<Interrupted>() && !check => Ok(Exit::Done),
        other => other,
    }
}

async fn run(
    workspace: &Workspace,
    lab: &mut Lab,
    check: bool,
    off: bool,
    limit: Duration,
    json: bool,
) -> Result<Exit> {
    let client = Client::local(&workspace.state);
    head_is_up(&client, lab).await?;
    let places = Places::new(&workspace.state);
    if let Reply::Machines { accelerator, .. } = ask(&places.socket(), &Request::List).await?
        && !json
    {
        println!("lab: {} machines, {accelerator}", workspace.cluster.nodes.len());
        let at = |name: &str| lab.forwards.iter().find(|(known, _)| known == name).map(|(_, address)| *address);
        if let Some(address) = at(HEAD).filter(|_| workspace.cluster.access.public) {
            println!("status page: http://{address}/");
        }
        if let Some(address) = at(HEAD_TLS) {
            println!("to log in:   https://{address}/ (`bramble user set NAME --role operator` makes a user)");
        }
    }
    if !off {
        // The machines are new and off, whatever the head remembers of an earlier lab's.
        for node in workspace.cluster.nodes.keys() {
            client.power(node, PowerAction::Cycle).await?;
        }
        let proof = match &workspace.cluster.lab.check {
            Some(what) => {
                let proof = proof::gather(&client, lab, &places, what, limit, json);
                let (_, proof) = tokio::try_join!(up::follow(&client, limit, json), proof)?;
                Some(proof)
            }
            None => {
                up::follow(&client, limit, json).await?;
                None
            }
        };
        let report = proof::Report::of(&client, proof).await?;
        if json {
            screen::json(&report)?;
        } else {
            print!("{}", report.render());
        }
    }
    if check {
        return Ok(Exit::Done);
    }
    if !json {
        println!("the lab is up until Ctrl-C");
    }
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if lab.has_ended() {
            return Ok(Exit::Done);
        }
    }
}

async fn head_is_up(client: &Client, lab: &mut Lab) -> Result<()> {
    let start = Instant::now();
    loop {
        match client.status().await {
            Ok(_) => return Ok(()),
            Err(error) if !error.is::<NoHead>() => return Err(error),
            Err(_) => {}
        }
        if lab.has_ended() || start.elapsed() > START {
            bail!("the lab's head does not come up\n{}", lab.log_end());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask_lab(place: &Place, request: &Request) -> Result<Reply> {
    let socket = Places::new(&place.state()?).socket();
    let reply = ask(&socket, request)
        .await
        .map_err(|_| anyhow::anyhow!("no lab runs for this repository: `bramble lab up` starts one"))?;
    match reply {
        Reply::Failed { error } => bail!("{error}"),
        reply => Ok(reply),
    }
}

pub async fn down(place: &Place) -> Result<Exit> {
    ask_lab(place, &Request::Down).await?;
    Ok(Exit::Done)
}

pub async fn list(place: &Place, json: bool) -> Result<Exit> {
    let Reply::Machines { machines, accelerator } = ask_lab(place, &Request::List).await? else {
        bail!("the lab's answer is malformed");
    };
    if json {
        screen::json(&serde_json::json!({ "accelerator": accelerator, "machines": machines }))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = machines
        .into_iter()
        .map(|machine| {
            let power = if machine.on { "on" } else { "off" };
            vec![machine.node.to_string(), power.into(), machine.firmware, machine.console]
        })
        .collect();
    print!("{accelerator}\n{}", screen::table(&["MACHINE", "POWER", "FIRMWARE", "CONSOLE"], &rows));
    Ok(Exit::Done)
}

pub async fn power(action: Switch, node: &Name, place: &Place) -> Result<Exit> {
    let steps: &[bool] = match action {
        Switch::On => &[true],
        Switch::Off => &[false],
        Switch::Cycle => &[false, true],
    };
    for on in steps {
        ask_lab(place, &Request::Power { node: node.clone(), on: *on }).await?;
    }
    Ok(Exit::Done)
}

pub fn console(node: &Name, follow: bool, place: &Place) -> Result<Exit> {
    let path = Places::new(&place.state()?).console(node.as_str());
    let mut file = File::open(&path)
        .with_context(|| format!("there is no console of `{node}`: it appears with `bramble lab up`"))?;
    let mut out = io::stdout();
    let mut buffer = [0; 8192];
    loop {
        match file.read(&mut buffer)? {
            0 if follow => std::thread::sleep(Duration::from_millis(100)),
            0 => return Ok(Exit::Done),
            read => {
                out.write_all(&buffer[..read])?;
                out.flush()?;
            }
        }
    }
}

pub fn inside(place: &Place, forwards: &[(String, RawFd)]) -> Result<Exit> {
    log();
    let workspace = Workspace::open(place)?;
    runtime()?.block_on(bramble_lab::inside(&workspace.cluster, &workspace.state, forwards))?;
    Ok(Exit::Done)
}
