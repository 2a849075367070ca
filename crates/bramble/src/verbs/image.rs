//! `bramble image …`

use std::collections::BTreeSet;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use bramble_image::container::Program;
use bramble_image::signing::Signed;
use bramble_image::{BootSet, Built, Error, Listed};
use bramble_model::boot_set::Architecture;
use bramble_model::names::Digest;
use bramble_system::Cancel;

use super::signing::signature;
use crate::exit::Exit;
use crate::place::Place;
use crate::process::{Interrupted, interrupted, runtime};
use crate::screen::{self, ago, megabytes};
use crate::workspace::{BootSets, Material};

pub fn build(place: &Place, refresh: bool, folder: bool, json: bool) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let start = Instant::now();
    let from = if folder { Material::of_folder(&place.repository()?)? } else { sets.desired(place)? };
    say_what_is_not_built(place, &from);
    let built = build_interruptibly(&sets, &from, refresh, json)?;
    if json {
        let sets: Vec<_> = built
            .iter()
            .map(|built| serde_json::json!({ "digest": built.digest, "manifest": built.manifest }))
            .collect();
        screen::json(&sets)?;
        return Ok(Exit::Done);
    }
    for Built { digest, manifest } in &built {
        let layers: Vec<_> =
            manifest.layers.iter().map(|layer| format!("{} {}", layer.name, megabytes(layer.artifact.size))).collect();
        println!(
            "boot set {} for {}: kernel {}, initrd {}, {}; {} in all, {} packages",
            digest.short(),
            manifest.architecture,
            megabytes(manifest.kernel.size),
            megabytes(manifest.initrd.size),
            layers.join(", "),
            megabytes(manifest.payload()),
            manifest.packages.len(),
        );
    }
    println!("built in {:.1} s", start.elapsed().as_secs_f64());
    for Built { digest, .. } in &built {
        if sets.shelf.load(*digest)?.signed == Signed::Not {
            println!("boot set {0} waits for its signature: `bramble image sign {0} --key FILE`", digest.short());
        }
    }
    Ok(Exit::Done)
}

/// A person who has changed the folder may expect that to be built.
fn say_what_is_not_built(place: &Place, from: &Material) {
    let Some(snapshot) = from.snapshot else { return };
    let folder = place.repository().ok().and_then(|folder| Material::of_folder(&folder).ok());
    if folder.is_some_and(|folder| folder.inputs != from.inputs) {
        eprintln!(
            "this folder's image differs from that of snapshot {}, which the head keeps true and which is built: \
             `bramble apply` first, or build with `--folder`",
            snapshot.short()
        );
    }
}

/// Builds, and stops cleanly on Ctrl-C.
pub fn build_interruptibly(sets: &BootSets, from: &Material, refresh: bool, quiet: bool) -> Result<Vec<Built>> {
    let cancel = Cancel::default();
    let (watcher, on_signal) = (runtime()?, cancel.clone());
    // A thread of its own, since the build blocks this one. The signal may never come: then the
    // thread ends with the process.
    std::thread::spawn(move || {
        if watcher.block_on(interrupted()).is_ok() {
            on_signal.cancel();
        }
    });
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    let progress = |step: &str| {
        if !quiet {
            let at = if terminal { String::new() } else { format!("[{:>5.1} s] ", start.elapsed().as_secs_f64()) };
            eprintln!("image: {at}{step}");
        }
    };
    let built = sets.build(from, refresh, &cancel, &progress);
    match built {
        Err(error) if cancel.is_cancelled() && matches!(error.downcast_ref(), Some(Error::Cancelled)) => {
            Err(Interrupted.into())
        }
        other => other,
    }
}

/// The sets that nodes are given.
fn given(sets: &BootSets) -> Result<BTreeSet<Digest>> {
    Ok(sets.given()?.into_values().map(|given| given.set).collect())
}

fn described(set: &BootSet, given: &BTreeSet<Digest>) -> serde_json::Value {
    let said = set.signed.statement();
    serde_json::json!({
        "digest": set.digest,
        "current": given.contains(&set.digest),
        "manifest": set.manifest,
        "serial": said.map(|said| said.serial),
        "expires": said.and_then(|said| said.expires),
    })
}

pub fn give(set: &str, place: &Place) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let set = sets.shelf.find(set)?;
    sets.give(&set.digest, set.manifest.architecture)?;
    println!(
        "nodes of {} are given boot set {} from their next boot on",
        set.manifest.architecture,
        set.digest.short()
    );
    Ok(Exit::Done)
}

pub fn list(place: &Place, json: bool) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let floor = sets.floor()?.floor;
    let (Listed { sets, unreadable }, given) = (sets.signed()?, given(&sets)?);
    for (digest, error) in &unreadable {
        let star = if given.contains(digest) { ", which nodes are given," } else { "" };
        eprintln!("boot set {}{star} cannot be read: {}", digest.short(), bramble_system::sentence(error));
        error.help().iter().for_each(|help| eprintln!("  {help}"));
    }
    if json {
        let sets: Vec<_> = sets.iter().map(|set| described(set, &given)).collect();
        screen::json(&sets)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = sets
        .iter()
        .map(|set| {
            let kernel = set.manifest.packages.iter().find(|package| package.name.starts_with("linux-image-a"));
            vec![
                format!("{}{}", set.digest.short(), if given.contains(&set.digest) { " *" } else { "" }),
                ago(SystemTime::now().duration_since(set.built).unwrap_or_default()),
                format!("{} {}", set.manifest.suite, set.manifest.architecture),
                kernel.map_or_else(|| "?".into(), |kernel| kernel.version.clone()),
                set.manifest.revision.clone().unwrap_or_else(|| "no git".into()),
                signature(set.signed, floor),
                megabytes(set.manifest.payload()),
            ]
        })
        .collect();
    if rows.is_empty() && unreadable.is_empty() {
        println!("no boot set yet: `bramble image build` makes one");
    } else if !rows.is_empty() {
        print!("{}", screen::table(&["SET", "BUILT", "SUITE", "KERNEL", "REVISION", "SIGNED", "SIZE"], &rows));
    }
    Ok(Exit::Done)
}

pub fn inspect(set: Option<&str>, place: &Place, json: bool) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let set = match set {
        Some(prefix) => sets.shelf.find(prefix)?,
        None => sets.current()?.into_iter().next().ok_or(Error::NoBootSet { architecture: Architecture::Amd64 })?,
    };
    let given = given(&sets)?;
    if json {
        screen::json(&described(&set, &given))?;
        return Ok(Exit::Done);
    }
    let manifest = &set.manifest;
    println!("boot set      {}{}", set.digest, if given.contains(&set.digest) { " (current)" } else { "" });
    println!("cluster       {}", manifest.cluster);
    println!("built         {}", ago(SystemTime::now().duration_since(set.built).unwrap_or_default()));
    println!("bramble       {}", manifest.version);
    println!("revision      {}", manifest.revision.as_deref().unwrap_or("not in git"));
    println!("system        Debian {} {}", manifest.suite, manifest.architecture);
    println!("command line  {}", manifest.cmdline);
    println!("signature     {}", set.signed);
    let rows: Vec<_> = manifest
        .files()
        .map(|(name, artifact)| vec![name.to_owned(), megabytes(artifact.size), artifact.sha256.to_string()])
        .collect();
    print!("\n{}", screen::table(&["FILE", "SIZE", "SHA-256"], &rows));
    let rows: Vec<_> =
        manifest.packages.iter().map(|package| vec![package.name.clone(), package.version.clone()]).collect();
    print!("\n{}", screen::table(&["PACKAGE", "VERSION"], &rows));
    Ok(Exit::Done)
}

pub fn sweep(place: &Place, keep: usize, json: bool) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let alone = sets.shelf.alone()?;
    let swept = sets.shelf.sweep(&alone, &given(&sets)?, keep)?;
    swept.notes.iter().for_each(|note| eprintln!("{note}"));
    if json {
        screen::json(&serde_json::json!({
            "sets": swept.sets, "files": swept.files, "bytes": swept.bytes, "notes": swept.notes,
        }))?;
    } else {
        println!("removed {} boot sets and {} files, {}", swept.sets, swept.files, megabytes(swept.bytes));
    }
    Ok(Exit::Done)
}

pub fn pack(program: &Path, tag: &str, output: &Path) -> Result<Exit> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let name = program.file_name().and_then(|name| name.to_str()).context("the program's name is not UTF-8")?;
    let mut archive = Vec::new();
    Program { tag, name, bytes: &bytes }.write(&mut archive).context("cannot pack the program")?;
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    bramble_system::files::replace(output, &archive).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}: {tag}, {}", output.display(), megabytes(archive.len() as u64));
    Ok(Exit::Done)
}
