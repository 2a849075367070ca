//! `bramble image …`

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use bramble_image::container::Program;
use bramble_image::{Built, Error};
use bramble_model::boot_set::Architecture;
use bramble_system::Cancel;

use crate::cli::{Exit, Place};
use crate::screen::{self, ago, megabytes};
use crate::verbs::{Interrupted, interrupted, runtime};
use crate::workspace::Workspace;

pub fn build(place: &Place, refresh: bool, json: bool) -> Result<Exit> {
    let workspace = Workspace::open(place)?;
    let start = Instant::now();
    let built = build_interruptibly(&workspace, refresh, json)?;
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
    Ok(Exit::Done)
}

/// Builds, and stops cleanly on Ctrl-C.
pub fn build_interruptibly(workspace: &Workspace, refresh: bool, quiet: bool) -> Result<Vec<Built>> {
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
    let built = workspace.build(refresh, &cancel, &progress);
    match built {
        Err(error) if cancel.is_cancelled() && matches!(error.downcast_ref(), Some(Error::Cancelled)) => {
            Err(Interrupted.into())
        }
        other => other,
    }
}

pub fn list(place: &Place, json: bool) -> Result<Exit> {
    let sets = Workspace::open(place)?.shelf()?.list()?;
    if json {
        let sets: Vec<_> = sets
            .iter()
            .map(|set| serde_json::json!({ "digest": set.digest, "current": set.current, "manifest": set.manifest }))
            .collect();
        screen::json(&sets)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = sets
        .iter()
        .map(|set| {
            let kernel = set.manifest.packages.iter().find(|package| package.name.starts_with("linux-image-a"));
            vec![
                format!("{}{}", set.digest.short(), if set.current { " *" } else { "" }),
                ago(SystemTime::now().duration_since(set.built).unwrap_or_default()),
                format!("{} {}", set.manifest.suite, set.manifest.architecture),
                kernel.map_or_else(|| "?".into(), |kernel| kernel.version.clone()),
                set.manifest.revision.clone().unwrap_or_else(|| "no git".into()),
                megabytes(set.manifest.payload()),
            ]
        })
        .collect();
    if rows.is_empty() {
        println!("no boot set yet: `bramble image build` makes one");
    } else {
        print!("{}", screen::table(&["SET", "BUILT", "SUITE", "KERNEL", "REVISION", "SIZE"], &rows));
    }
    Ok(Exit::Done)
}

pub fn inspect(set: Option<&str>, place: &Place, json: bool) -> Result<Exit> {
    let shelf = Workspace::open(place)?.shelf()?;
    let set = match set {
        Some(prefix) => shelf.find(prefix)?,
        None => {
            shelf.current(Architecture::Amd64).or_else(|none| shelf.current(Architecture::Arm64).map_err(|_| none))?
        }
    };
    if json {
        screen::json(&serde_json::json!({ "digest": set.digest, "current": set.current, "manifest": set.manifest }))?;
        return Ok(Exit::Done);
    }
    let manifest = &set.manifest;
    println!("boot set      {}{}", set.digest, if set.current { " (current)" } else { "" });
    println!("cluster       {}", manifest.cluster);
    println!("built         {}", ago(SystemTime::now().duration_since(set.built).unwrap_or_default()));
    println!("bramble       {}", manifest.version);
    println!("revision      {}", manifest.revision.as_deref().unwrap_or("not in git"));
    println!("system        Debian {} {}", manifest.suite, manifest.architecture);
    println!("command line  {}", manifest.cmdline);
    let rows: Vec<_> = [("kernel", &manifest.kernel), ("initrd", &manifest.initrd)]
        .into_iter()
        .chain(manifest.layers.iter().chain(&manifest.firmware).map(|layer| (layer.name.as_str(), &layer.artifact)))
        .map(|(name, artifact)| vec![name.to_owned(), megabytes(artifact.size), artifact.sha256.to_string()])
        .collect();
    print!("\n{}", screen::table(&["FILE", "SIZE", "SHA-256"], &rows));
    let rows: Vec<_> =
        manifest.packages.iter().map(|package| vec![package.name.clone(), package.version.clone()]).collect();
    print!("\n{}", screen::table(&["PACKAGE", "VERSION"], &rows));
    Ok(Exit::Done)
}

pub fn sweep(place: &Place, keep: usize, json: bool) -> Result<Exit> {
    let swept = Workspace::open(place)?.shelf()?.sweep(keep)?;
    if json {
        screen::json(&serde_json::json!({ "sets": swept.sets, "files": swept.files, "bytes": swept.bytes }))?;
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
