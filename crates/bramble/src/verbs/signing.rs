//! `bramble image sign · forbid · key`: what is said of boot sets by signature.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bramble_boot::Day;
use bramble_image::signing::{Public, Secret, Signed, Standing};
use bramble_image::{Error, ToSign};
use bramble_model::repository::Cluster;
use bramble_system::now;

use super::desired::asked;
use super::people::secret;
use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::process::runtime;
use crate::screen::{self, megabytes};
use crate::target::Target;
use crate::workspace::BootSets;

const DAY: u64 = 24 * 3600;
/// Where no repository is at hand to say it.
const DAYS: u32 = 365;

/// From where a set is signed.
enum From {
    /// The head's own computer, whether it runs or not.
    Here(BootSets),
    Elsewhere(Client),
}

impl From {
    fn of(place: &Place) -> Result<Self> {
        Ok(match Target::of(place)? {
            Target::Here(state) => From::Here(BootSets::at(state)?),
            target @ (Target::Running { .. } | Target::Elsewhere(_)) => From::Elsewhere(Client::at(target)?),
        })
    }

    fn to_sign(&self, set: &str) -> Result<ToSign> {
        match self {
            From::Here(sets) => sets.to_sign(set),
            From::Elsewhere(client) => runtime()?.block_on(client.set_to_sign(set)),
        }
    }

    fn take(&self, to_sign: &ToSign, signature: &str) -> Result<()> {
        match self {
            From::Here(sets) => sets.take_signature(&to_sign.set, signature),
            From::Elsewhere(client) => runtime()?.block_on(client.sign_set(&to_sign.set, signature)),
        }
    }
}

/// For how many seconds a signature lasts.
fn lasts(days: Option<u32>, place: &Place) -> Result<Option<u64>> {
    let days = match days {
        Some(days) => Some(days).filter(|days| *days != 0),
        None => match place.repository() {
            Ok(folder) => Cluster::of_folder(&folder)?.image.expires_days,
            Err(_) => Some(DAYS),
        },
    };
    Ok(days.map(|days| u64::from(days) * DAY))
}

pub fn sign(set: &str, key: Option<&Path>, days: Option<u32>, yes: bool, place: &Place) -> Result<Exit> {
    let (from, lasts) = (From::of(place)?, lasts(days, place)?);
    let to_sign = from.to_sign(set)?;
    if !yes {
        describe(&to_sign)?;
        if !asked("Sign it?")? {
            return Ok(Exit::Done);
        }
    }
    let signature = match (key, &from) {
        (Some(path), _) => {
            let password = || {
                let read = runtime().and_then(|runtime| runtime.block_on(secret("Password of the key: ")));
                read.map_err(|error| Error::NoKey { path: path.to_owned(), problem: format!("{error:#}") })
            };
            to_sign.sign(&Secret::read(path, password)?, now() / 1000, lasts)?
        }
        (None, From::Here(sets)) => own_signature(sets, &to_sign, lasts)?,
        (None, From::Elsewhere(_)) => {
            bail!("the head's own key signs on its own computer; another one is named by `--key FILE`")
        }
    };
    from.take(&to_sign, &signature)?;
    let until = lasts.map_or_else(|| "for ever".into(), |lasts| format!("until {}", Day(now() / 1000 + lasts)));
    println!("boot set {} is signed {until}", to_sign.set.short());
    if let From::Here(sets) = &from {
        let set = sets.shelf.load(to_sign.set)?;
        if !sets.given()?.values().any(|given| given.set == set.digest) {
            println!("`bramble image use {}` gives it to nodes of {}", set.digest.short(), set.manifest.architecture);
        }
    }
    Ok(Exit::Done)
}

/// By the key on this computer.
fn own_signature(sets: &BootSets, to_sign: &ToSign, lasts: Option<u64>) -> Result<String> {
    let keys = sets.keys()?;
    let (signs, _) = keys.standing();
    if !to_sign.manifest()?.trusts.contains(&signs.key) {
        return Err(Error::NotTrusted { set: to_sign.set, key: signs.key }.into());
    }
    let serial = keys.next_serial(now() / 1000, to_sign.above)?;
    let said = to_sign.statement(serial, lasts);
    let signature = keys.sign(to_sign.manifest.as_bytes(), &said)?;
    Ok(signature.ok_or(Error::Unsigned { set: to_sign.set })?)
}

/// What a person is about to vouch for.
fn describe(to_sign: &ToSign) -> Result<()> {
    let manifest = to_sign.manifest()?;
    println!("boot set      {}", to_sign.set);
    println!("cluster       {}", manifest.cluster);
    println!("bramble       {}", manifest.version);
    println!("revision      {}", manifest.revision.as_deref().unwrap_or("not in git"));
    println!("system        Debian {} {}, {} packages", manifest.suite, manifest.architecture, manifest.packages.len());
    println!("command line  {}", manifest.cmdline);
    println!("size          {}", megabytes(manifest.payload()));
    if to_sign.floor > 0 {
        println!("forbids       what was signed before {}, {} s after 1970", Day(to_sign.floor), to_sign.floor);
    }
    Ok(())
}

pub fn forbid(set: &str, yes: bool, place: &Place) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let found = sets.shelf.find(set)?;
    let Some(said) = found.signed.statement() else { return Err(Error::Unsigned { set: found.digest }.into()) };
    let others = sets.shelf.list()?.sets.into_iter().filter(|other| other.digest != found.digest);
    let earlier: Vec<String> = others
        .filter(|other| other.signed.statement().is_some_and(|other| other.serial <= said.serial))
        .map(|other| other.digest.short())
        .collect();
    if !yes {
        println!("boot set {}, {}, is forbidden for good", found.digest.short(), found.signed);
        if !earlier.is_empty() {
            println!("so are those that were signed before it: {}", earlier.join(", "));
        }
        if !asked("Forbid?")? {
            return Ok(Exit::Done);
        }
    }
    let lasts = lasts(None, place)?;
    sets.forbid(&found.digest)?;
    println!("boot set {} is forbidden, and no node boots it any more", found.digest.short());
    if !earlier.is_empty() {
        println!("so are {}; `bramble image sign SET` allows one again that is good", earlier.join(", "));
    }
    say_the_floor(&sets, lasts)
}

/// Signs again what nodes are given, so that they hear of what is forbidden. Each lasts as long as it did, and one that says
/// nothing of that `lasts` seconds.
fn say_the_floor(sets: &BootSets, lasts: Option<u64>) -> Result<Exit> {
    for set in sets.current()? {
        let to_sign = sets.to_sign(&set.digest.to_string())?;
        let lasts = match set.signed {
            Signed::Says(said) => said.expires.map(|at| at.saturating_sub(said.serial)),
            Signed::Not | Signed::Plainly => lasts,
        };
        match own_signature(sets, &to_sign, lasts) {
            Ok(signature) => {
                sets.take_signature(&to_sign.set, &signature)?;
                println!("boot set {}, which nodes are given, is signed again and says so", set.digest.short());
            }
            Err(error) => {
                println!("{error:#}");
                println!(
                    "nodes hear of it by a signature: `bramble image sign {} --key FILE`, or by the next set that is built",
                    set.digest.short()
                );
            }
        }
    }
    Ok(Exit::Done)
}

pub fn show(place: &Place, json: bool) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let (signs, next) = sets.keys()?.standing();
    if json {
        screen::json(&serde_json::json!({ "signs": signs, "next": next }))?;
        return Ok(Exit::Done);
    }
    let place = |key: &Standing| if key.elsewhere { "lies off the head" } else { "on the head, sealed" };
    println!("signs   {}  {}", signs.key, place(&signs));
    if let Some(next) = &next {
        println!("next    {}  {}", next.key, place(next));
    }
    let trusting = |key: &str| {
        let listed = sets.shelf.list().map(|listed| listed.sets).unwrap_or_default().into_iter();
        let trusting = listed.filter(|set| set.manifest.trusts.iter().any(|one| one == key));
        trusting.map(|set| set.digest.short()).collect::<Vec<String>>()
    };
    for (word, key) in [("signs", Some(&signs)), ("next", next.as_ref())] {
        let Some(key) = key else { continue };
        let sets = trusting(&key.key);
        let sets = if sets.is_empty() { "none".into() } else { sets.join(", ") };
        println!("boot sets that trust the one that {word}: {sets}");
    }
    Ok(Exit::Done)
}

pub fn make(file: &Path) -> Result<Exit> {
    let password = runtime()?.block_on(async {
        let first = secret("Password for the new key: ").await?;
        if first.is_empty() {
            bail!("a key that lies about needs a password");
        }
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) && secret("Again: ").await? != first {
            bail!("the two passwords differ");
        }
        Ok(first)
    })?;
    let (public, beside) = Secret::make(file, password)?;
    println!("{}: the secret half, which stays off the head", file.display());
    println!("{}: {}", beside.display(), public.text());
    println!("`bramble image key rotate --to {}` on the head begins the change to it", beside.display());
    Ok(Exit::Done)
}

pub fn rotate(to: Option<&Path>, finish: bool, abandon: bool, yes: bool, place: &Place) -> Result<Exit> {
    let sets = BootSets::open(place)?;
    let keys = sets.keys()?;
    if abandon {
        let (signs, _) = keys.abandon()?.standing();
        println!("the key of before stays: {}", signs.key);
        return Ok(Exit::Done);
    }
    if !finish {
        let to = to.map(|path| {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Public::parse(&text)
                .map_err(|error| anyhow::anyhow!("{}: it is no public key of minisign: {error}", path.display()))
        });
        let (_, next) = keys.rotate(to.transpose()?)?.standing();
        let next = next.expect("it has just begun");
        println!("the next key is {}", next.key);
        println!(
            "`bramble image build` makes boot sets that trust it, too; `bramble image key rotate --finish` ends the change"
        );
        return Ok(Exit::Done);
    }
    let (_, next) = keys.standing();
    let next = next.ok_or(Error::KeyNotChanging)?;
    let behind: Vec<String> = (sets.current()?.into_iter())
        .filter(|set| !set.manifest.trusts.contains(&next.key))
        .map(|set| format!("boot set {}, which nodes of {} are given", set.digest.short(), set.manifest.architecture))
        .collect();
    if !behind.is_empty() && !yes {
        bail!(
            "{} was built before the change began, and does not trust the next key: `bramble image build` first; with `--yes` it \
             boots by the former signature, and cannot be signed again",
            behind.join(" and ")
        );
    }
    let (signs, _) = keys.finish()?.standing();
    println!("{} signs from now on; the former secret is removed", signs.key);
    if signs.elsewhere {
        println!("what is built waits for `bramble image sign SET --key FILE`");
    }
    println!("`bramble image build` makes boot sets that trust that key alone");
    Ok(Exit::Done)
}

/// What a list says of a set's signature.
pub fn signature(signed: Signed, floor: u64) -> String {
    match signed.statement() {
        Some(said) if said.serial < floor => "forbidden".into(),
        Some(said) => match said.expires {
            Some(at) if at <= now() / 1000 => format!("expired {}", Day(at)),
            Some(at) => format!("until {}", Day(at)),
            None => "for ever".into(),
        },
        None => "not signed".into(),
    }
}
