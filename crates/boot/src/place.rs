//! Where things lie: on the head, by path, and on a node.

use std::path::{Path, PathBuf};

/// What stage 1 writes and the agent reads.
pub const BOOT_FILE: &str = "/run/bramble/boot.json";
/// A file that is there from stage 1 on while nothing may start from what the data partition has, and where there is a data
/// partition at all.
pub const UNTRUSTED_DATA: &str = "/run/bramble/untrusted-data";
/// The keys that verify manifests, in an initrd, in minisign's base64, a line each; without a leading slash.
pub const KEY_FILE: &str = "etc/bramble.pub";
/// The name of the cluster whose initrd it is, beside that key; without a leading slash.
pub const CLUSTER_FILE: &str = "etc/bramble.cluster";
/// The files of a boot set's own folder.
pub const MANIFEST: &str = "manifest.json";
pub const SIGNATURE: &str = "manifest.json.minisig";

/// The agent's folder on a data partition; without a leading slash.
pub const AGENT_FOLDER: &str = "agent";
/// In the agent's folder: a file for each boot set that this machine was ready with, by the set's digest.
pub const READY_FOLDER: &str = "ready";
/// In the agent's folder: the highest floor that each key has named by a good signature ([`crate::Statement::floor`]), a line
/// each: the number, and the key in minisign's base64.
pub const FLOOR_FILE: &str = "floor";

/// Whether a set's own folder has a file of this name.
pub fn is_kept_of_a_set(name: &str) -> bool {
    [MANIFEST, SIGNATURE].contains(&name)
}

/// Path and query of a boot set's file, for the boot that fetches it. `digest` is in hex; `name` is what the
/// boot calls it.
pub fn file_path(digest: &str, boot: &str, name: &str) -> String {
    format!("/boot/files/{digest}?boot={boot}&name={name}")
}

/// Path of a set's manifest or signature.
pub fn set_path(set: &str, name: &str) -> String {
    format!("/boot/sets/{set}/{name}")
}

/// Path that stage 1 claims its boot at.
pub fn claim_path(boot: &str) -> String {
    format!("/v1/boots/{boot}/claim")
}

/// What a report or an inventory of a boot names: the boot, and where that was claimed its word for reports.
fn reporter(boot: &str, report: Option<&str>) -> String {
    report.map_or_else(|| boot.to_owned(), |report| format!("{boot}.{report}"))
}

/// Path that stage 1 of a boot reports to.
pub fn report_path(boot: &str, report: Option<&str>) -> String {
    format!("/v1/boots/{}/report", reporter(boot, report))
}

/// Path that a machine says at what it is.
pub fn inventory_path(boot: &str, report: Option<&str>) -> String {
    format!("/v1/boots/{}/inventory", reporter(boot, report))
}

/// The boot and the word for reports that such a path names.
pub fn reporting(reporter: &str) -> (&str, Option<&str>) {
    reporter.split_once('.').map_or((reporter, None), |(boot, report)| (boot, Some(report)))
}

/// The folder of a set below a shelf or a data partition.
pub fn kept_set(shelf: &Path, set: &str) -> PathBuf {
    shelf.join("sets").join(set)
}

/// A file by its digest below a shelf or a data partition.
pub fn kept_file(shelf: &Path, digest: &str) -> PathBuf {
    shelf.join("files").join(digest)
}
