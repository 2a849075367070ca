//! Layers: from the data partition by digest, or streamed from the head with resume; every byte
//! is hashed on its way, and nothing is mounted whose digest is not the manifest's.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bramble_boot::{Arguments, Failure, Step, file_path, kept_file};
use sha2::{Digest, Sha256};

use crate::error::{Doing, Error};
use crate::http;
use crate::manifest::{Layer, Manifest, hex};
use crate::report::Reporter;

/// Where layers are kept that come from the head.
const MEMORY: &str = "/run/bramble/layers";
/// How often a broken connection is taken up again before the attempt counts as failed.
const RESUMES: u32 = 8;

/// All layers of the manifest, verified, as files, the lowest first.
pub fn gather(
    arguments: &Arguments,
    manifest: &Manifest,
    data: Option<&Path>,
    reporter: &mut Reporter,
) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(MEMORY).doing("cannot make a folder for layers")?;
    let total: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
    let mut before = 0;
    let mut paths = Vec::new();
    for layer in &manifest.layers {
        let mut progress = |bytes: u64| reporter.percent(Step::Root, before + bytes, total);
        let path = find(layer, data, &mut || fetch(arguments, layer, &mut progress))?;
        before += layer.size;
        paths.push(path);
    }
    reporter.percent(Step::Root, total, total);
    Ok(paths)
}

/// The layer that is kept below `data`, or else the head's, which then takes the place of a damaged one, too.
fn find(
    layer: &Layer,
    data: Option<&Path>,
    from_head: &mut dyn FnMut() -> Result<PathBuf, Error>,
) -> Result<PathBuf, Error> {
    let Some(kept) = data.map(|data| kept_file(data, &layer.sha256)).filter(|kept| kept.is_file()) else {
        return from_head();
    };
    if is_layer(&kept, layer) {
        return Ok(kept);
    }
    eprintln!("bramble: layer `{}` on the data partition is damaged: the head's takes its place", layer.name);
    let fetched = from_head()?;
    if let Err(error) = replace(&kept, &fetched) {
        // The node boots all the same, and tries again next time.
        eprintln!("bramble: {error}");
    }
    Ok(fetched)
}

/// Replaces a layer that is kept by one that was fetched: a power cut leaves the old one or the new one.
fn replace(kept: &Path, fetched: &Path) -> Result<(), Error> {
    let new = kept.with_extension("new");
    let write = || {
        io::copy(&mut File::open(fetched)?, &mut File::create(&new)?)?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, kept)?;
        File::open(kept.parent().unwrap_or(kept))?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // Where it was not begun there is none.
        let _ = fs::remove_file(&new);
    }
    written.doing("cannot replace a layer on the data partition")
}

/// Whether the file is this layer to the byte.
fn is_layer(path: &Path, layer: &Layer) -> bool {
    let check = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != layer.size {
            return Ok(false);
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hash.finalize()) == layer.sha256),
                read => hash.update(&buffer[..read]),
            }
        }
    };
    check().unwrap_or(false)
}

fn fetch(arguments: &Arguments, layer: &Layer, progress: &mut dyn FnMut(u64)) -> Result<PathBuf, Error> {
    let path = Path::new(MEMORY).join(&layer.sha256);
    if is_layer(&path, layer) {
        return Ok(path);
    }
    let mut file = File::create(&path).doing("cannot keep a layer in memory")?;
    let url = file_path(&layer.sha256, &arguments.boot, &layer.name);
    let mut open = |from: u64| http::get(arguments.head, &url, from).map(|answer| answer.body);
    let digest = stream(layer, &mut file, &mut open, progress, &mut thread::sleep)?;
    if digest != layer.sha256 {
        drop(file);
        fs::remove_file(&path).doing("cannot remove a layer")?;
        let sentence = format!(
            "layer `{}` from the head is not the one that the manifest names (digest {}…, expected {}…); it was not mounted",
            layer.name,
            &digest[..12],
            &layer.sha256[..12]
        );
        return Err(Error::new(Failure::Digest, sentence));
    }
    Ok(path)
}

/// Copies the layer from what `open` gives, hashing, and goes on from where a connection broke.
fn stream<R: Read>(
    layer: &Layer,
    out: &mut impl Write,
    open: &mut dyn FnMut(u64) -> io::Result<R>,
    progress: &mut dyn FnMut(u64),
    sleep: &mut dyn FnMut(Duration),
) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut done = 0;
    let mut resumes = 0;
    let mut buffer = vec![0; 1 << 17];
    while done < layer.size {
        let before = done;
        let broken = match open(done) {
            Err(error) => error,
            Ok(mut body) => loop {
                match body.read(&mut buffer) {
                    Ok(0) => break io::ErrorKind::UnexpectedEof.into(),
                    Ok(read) => {
                        let read = read.min(usize::try_from(layer.size - done).unwrap_or(read));
                        hash.update(&buffer[..read]);
                        out.write_all(&buffer[..read]).doing("cannot keep a layer in memory")?;
                        done += read as u64;
                        progress(done);
                        if done == layer.size {
                            return Ok(hex(&hash.finalize()));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break error,
                }
            },
        };
        resumes = if done > before { 0 } else { resumes + 1 };
        if resumes > RESUMES {
            return Err(broken)
                .doing_as(Failure::Fetch, format_args!("cannot fetch layer `{}` past byte {done}", layer.name));
        }
        sleep(Duration::from_millis(250 << resumes.min(5)));
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(bytes: &[u8]) -> Layer {
        Layer { name: "root".into(), sha256: hex(&Sha256::digest(bytes)), size: bytes.len() as u64 }
    }

    proptest! {
        /// However a connection breaks, the layer arrives whole, or an error does.
        #[test]
        fn a_broken_stream_is_taken_up_again(bytes in prop::collection::vec(any::<u8>(), 1..4000), cuts in prop::collection::vec(0..600_usize, 0..40)) {
            let layer = layer(&bytes);
            let mut cuts = cuts.into_iter();
            let mut open = |from: u64| {
                let rest = &bytes[usize::try_from(from).expect("small")..];
                let length = cuts.next().unwrap_or(rest.len()).min(rest.len());
                Ok(&rest[..length])
            };
            let mut out = Vec::new();
            match stream(&layer, &mut out, &mut open, &mut |_| (), &mut |_| ()) {
                Ok(digest) => {
                    prop_assert_eq!(digest, layer.sha256);
                    prop_assert_eq!(out, bytes);
                }
                Err(error) => prop_assert!(error.kind == Failure::Fetch && error.sentence.contains("past byte")),
            }
        }
    }

    #[test]
    fn a_flipped_byte_changes_the_digest() {
        let bytes = vec![1; 5000];
        let layer = layer(&bytes);
        let mut flipped = bytes.clone();
        flipped[4096] ^= 1;
        let mut open = |from: u64| Ok(&flipped[usize::try_from(from).expect("small")..]);
        let digest = stream(&layer, &mut Vec::new(), &mut open, &mut |_| (), &mut |_| ()).expect("arrives");
        assert_ne!(digest, layer.sha256);
    }

    #[test]
    fn a_damaged_layer_on_the_data_partition_is_replaced_and_found_whole_at_the_next_boot() {
        let (data, memory) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let bytes = vec![1; 5000];
        let layer = layer(&bytes);
        let fetched = memory.path().join("layer");
        fs::write(&fetched, &bytes).expect("written");
        let kept = kept_file(data.path(), &layer.sha256);
        let mut asked = 0;
        let mut find = || {
            super::find(&layer, Some(data.path()), &mut || {
                asked += 1;
                Ok(fetched.clone())
            })
        };
        assert_eq!(find().expect("from the head"), fetched);
        assert!(!kept.exists(), "what was never kept is not kept now");
        fs::create_dir_all(kept.parent().expect("a folder")).expect("made");
        let mut damaged = bytes.clone();
        damaged[4096] ^= 1;
        for damaged in [&damaged[..], &bytes[..7]] {
            fs::write(&kept, damaged).expect("written");
            assert_eq!(find().expect("from the head"), fetched);
            assert_eq!(fs::read(&kept).expect("there"), bytes);
            assert_eq!(find().expect("as it is kept"), kept);
        }
        let folder = kept.parent().expect("a folder");
        assert_eq!(fs::read_dir(folder).expect("a folder").count(), 1, "nothing is left beside it");
        // A partition that cannot be written: the node boots, and the damage is said.
        fs::remove_file(&kept).expect("removed");
        fs::create_dir(&kept).expect("in the way");
        assert_eq!(find().expect("from the head"), fetched);
        assert_eq!(asked, 4);
    }
}
