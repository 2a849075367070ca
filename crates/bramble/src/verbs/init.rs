//! `bramble init`

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::exit::Exit;

const FILES: [(&str, &str); 4] = [
    ("bramble.toml", include_str!("init/bramble.toml")),
    ("workloads/hello.yaml", include_str!("init/hello.yaml")),
    // git keeps no empty folder, and a clone without it would not pass the check.
    ("overlay/etc/motd", "A node of @NAME@, kept by bramble.\n"),
    (".gitignore", ".bramble/\n"),
];

pub fn run(folder: &Path) -> Result<Exit> {
    let taken = FILES.iter().find(|(name, _)| folder.join(name).exists());
    ensure!(
        taken.is_none(),
        "{} is already there, and is left as it is: choose another folder",
        folder.join(taken.map_or("", |(name, _)| name)).display()
    );
    for name in ["overlay/etc", "workloads"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("home").to_ascii_lowercase();
    let name = if name.parse::<bramble_model::names::Name>().is_ok() { name } else { "home".into() };
    for (path, text) in FILES {
        let path = folder.join(path);
        let text = text.replace("@NAME@", &name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!(
        "{} is a cluster repository. Next: put your machines into bramble.toml, then `bramble check`.",
        folder.display()
    );
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use bramble_model::repository::Cluster;

    #[test]
    fn what_init_writes_passes_check() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().join("my-home");
        super::run(&home).expect("written");
        let cluster = Cluster::check(&home).expect("valid");
        assert!(cluster.warnings.0.is_empty(), "{}", cluster.warnings);
        assert_eq!(cluster.name.as_str(), "my-home");
        // As git gives it to whoever clones it: without empty folders.
        for folder in ["overlay", "workloads"] {
            assert_ne!(std::fs::read_dir(home.join(folder)).expect("a folder").count(), 0, "{folder} is kept by git");
        }
        super::run(&home).expect_err("never over what is there");
    }
}
