//! Debian packages as a tar archive, by mmdebstrap.

use std::path::Path;
use std::time::Duration;

use bramble_system::{Cancel, Command, Failure};

use crate::recipe::Recipe;
use crate::{EPOCH, Error};

/// Long enough for a slow line and a slow machine.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs mmdebstrap: these packages of the recipe's suite and architecture, as a tar archive.
pub(crate) fn mmdebstrap(
    recipe: &Recipe,
    packages: &[String],
    more: impl IntoIterator<Item = String>,
    tree: &Path,
    cancel: &Cancel,
) -> Result<(), Error> {
    let output = Command::new("mmdebstrap")
        .args(["--mode=unshare", "--format=tar"])
        .arg(format!("--architectures={}", recipe.architecture))
        .arg(format!("--include={}", packages.join(",")))
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        .args(more)
        .arg(&recipe.suite)
        .arg(tree)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .env("LC_ALL", "C.UTF-8")
        .limit(LIMIT)
        .cancel(cancel)
        .run();
    match output {
        Ok(_) => Ok(()),
        Err(error) => {
            if let Failure::Failed { stderr, .. } = &error.failure {
                if let Some((_, rest)) = stderr.split_once("Unable to locate package ") {
                    let package = rest.split_whitespace().next().unwrap_or_default().to_owned();
                    return Err(Error::NoSuchPackage { suite: recipe.suite.clone(), package });
                }
                if let Some(unfetched) = unfetched(stderr) {
                    return Err(unfetched);
                }
            }
            Err(Error::program("cannot make the Debian root")(error))
        }
    }
}

/// What apt says that it could not fetch, and why: `E: Failed to fetch URL  reason`.
fn unfetched(stderr: &str) -> Option<Error> {
    let mut lines = stderr.lines().filter_map(|line| line.split_once(": Failed to fetch ")?.1.split_once(' '));
    let (url, reason) = lines.next()?;
    Some(Error::Fetch { url: url.to_owned(), reason: reason.trim().to_owned(), more: lines.count() })
}
