//! A cluster repository and its places on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bramble_head::ca::Authority;
use bramble_image::signing::SigningKey;
use bramble_image::{Built, Ingredients, Shelf};
use bramble_model::repository::Cluster;
use bramble_system::Cancel;

use crate::cli::Place;
use crate::screen;

/// The static program that becomes `/init` of a booting node; `build.rs` makes it.
const STAGE1: &[u8] = include_bytes!(env!("BRAMBLE_STAGE1"));
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
        if !state.exists() {
            fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
            // Keys lie here: the folder keeps itself out of git.
            fs::write(state.join(".gitignore"), "*\n")
                .with_context(|| format!("cannot write to {}", state.display()))?;
        }
        Ok(Workspace { cluster, state })
    }

    pub fn shelf(&self) -> Result<Shelf> {
        Ok(Shelf::open(self.state.join("image"))?)
    }

    fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }

    /// Calls `work` with what a boot set of this repository is made of.
    fn with_ingredients<T>(&self, work: impl FnOnce(&Ingredients<'_>, &SigningKey, &Path) -> Result<T>) -> Result<T> {
        let agent = std::env::current_exe().context("cannot find this program")?;
        let authority = Authority::open(&self.keys())?;
        let key = SigningKey::open(&self.keys())?;
        let ingredients =
            Ingredients { agent: &agent, stage1: STAGE1, ca: authority.pem(), version: env!("CARGO_PKG_VERSION") };
        work(&ingredients, &key, &cache()?)
    }

    /// Builds the boot set; what has not changed is reused.
    pub fn build(&self, refresh: bool, cancel: &Cancel, progress: &dyn Fn(&str)) -> Result<Built> {
        self.with_ingredients(|ingredients, key, cache| {
            let shelf = self.shelf()?;
            Ok(bramble_image::build(&self.cluster, ingredients, &shelf, key, cache, refresh, cancel, progress)?)
        })
    }

    /// Whether the current boot set is what a build would make now.
    pub fn set_is_current(&self) -> Result<bool> {
        self.with_ingredients(|ingredients, key, cache| {
            Ok(bramble_image::is_current(&self.cluster, ingredients, &self.shelf()?, key, cache)?)
        })
    }
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
