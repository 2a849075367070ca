//! A cluster repository and its places on this machine.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bramble_head::ca::Authority;
use bramble_image::signing::SigningKey;
use bramble_image::{Built, Error, Ingredients, Shelf};
use bramble_model::boot_set::Architecture;
use bramble_model::repository::Cluster;
use bramble_system::{Cancel, Command, Failure};

use crate::cli::Place;
use crate::screen;

/// The static program that becomes `/init` of a booting node; `build.rs` makes it.
pub const STAGE1: &[u8] = include_bytes!(env!("BRAMBLE_STAGE1"));
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What goes by this name is never committed.
const STATE: &str = ".bramble";

/// The repository and where its state lies.
pub struct Workspace {
    pub cluster: Cluster,
    pub state: PathBuf,
}

impl Workspace {
    /// Loads and validates the repository; prints its warnings.
    pub fn open(place: &Place) -> Result<Self> {
        let cluster = Cluster::load(&place.repository)?;
        if !cluster.warnings.0.is_empty() {
            screen::warnings(&cluster.warnings);
        }
        let state = state(place);
        make_state(&state)?;
        Ok(Workspace { cluster, state })
    }

    pub fn shelf(&self) -> Result<Shelf> {
        Ok(Shelf::open(self.state.join("image"))?)
    }

    fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }

    /// Calls `work` with what a boot set of this repository is made of, for each of its architectures.
    fn with_ingredients<T>(
        &self,
        mut work: impl FnMut(&Ingredients<'_>, &SigningKey, &Path) -> Result<T>,
    ) -> Result<Vec<T>> {
        let authority = Authority::open(&self.keys())?;
        let key = SigningKey::open(&self.keys())?;
        let cache = cache()?;
        let of = |architecture: &Architecture| {
            let (agent, stage1) = programs(*architecture)?;
            let ingredients = Ingredients {
                architecture: *architecture,
                agent: &agent,
                stage1: &stage1,
                ca: authority.pem(),
                version: VERSION,
            };
            work(&ingredients, &key, &cache)
        };
        self.cluster.image.architectures.iter().map(of).collect()
    }

    /// Builds a boot set for each architecture; what has not changed is reused.
    pub fn build(&self, refresh: bool, cancel: &Cancel, progress: &dyn Fn(&str)) -> Result<Vec<Built>> {
        let shelf = self.shelf()?;
        self.with_ingredients(|ingredients, key, cache| {
            Ok(bramble_image::build(&self.cluster, ingredients, &shelf, key, cache, refresh, cancel, progress)?)
        })
    }

    /// Whether the current boot sets are what a build would make now.
    pub fn sets_are_current(&self) -> Result<bool> {
        let shelf = self.shelf()?;
        let current = self.with_ingredients(|ingredients, key, cache| {
            Ok(bramble_image::is_current(&self.cluster, ingredients, &shelf, key, cache)?)
        })?;
        Ok(current.into_iter().all(|current| current))
    }
}

/// The programs of a node of this architecture: its agent and its stage 1. For another one than this
/// computer's, `bramble-ARCHITECTURE` lies beside this program, and tells its own stage 1; it has to
/// run here, as have the programs of Debian's packages.
fn programs(architecture: Architecture) -> Result<(PathBuf, Cow<'static, [u8]>)> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let native = match std::env::consts::ARCH {
        "x86_64" => Architecture::Amd64,
        _ => Architecture::Arm64,
    };
    if architecture == native {
        return Ok((own, STAGE1.into()));
    }
    let foreign = own.with_file_name(format!("bramble-{architecture}"));
    if !foreign.exists() {
        bail!(
            "{} is missing: nodes of architecture {architecture} need bramble's program for it, beside this one",
            foreign.display()
        );
    }
    let tell = |word: &str| {
        Command::new(&foreign).arg(word).run().map_err(|error| match error.failure {
            Failure::CouldNotStart(_) => Error::CannotRun { architecture }.into(),
            _ => anyhow::Error::new(error),
        })
    };
    let version = tell("--version")?.text();
    if version != format!("bramble {VERSION}") {
        bail!("{} is {version}, this is bramble {VERSION}: take both from one release", foreign.display());
    }
    let stage1 = tell("stage1")?.stdout;
    Ok((foreign, stage1.into()))
}

/// Makes the folder of the state, where there is none.
pub fn make_state(state: &Path) -> Result<()> {
    if !state.exists() {
        fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
        // Keys lie here: the folder keeps itself out of git.
        fs::write(state.join(".gitignore"), "*\n").with_context(|| format!("cannot write to {}", state.display()))?;
    }
    Ok(())
}

/// Where the state of a repository lies.
pub fn state(place: &Place) -> PathBuf {
    place.state.clone().unwrap_or_else(|| place.repository.join(STATE))
}

/// Where roots are kept that any repository may use (XDG Base Directory Specification).
fn cache() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache")?.join("bramble"))
}
