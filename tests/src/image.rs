//! The images that `make image` made: where they are, and what is in them, read without any container.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns;

/// An OCI archive, unpacked so far that its parts can be read.
#[derive(Debug)]
pub struct Image {
    directory: tempfile::TempDir,
    layer: PathBuf,
    /// Its manifest's `config`: platform, entry point, labels.
    pub config: Value,
}

/// One file, directory or link of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Without the leading slash.
    pub path: String,
    /// As `ls -l` has it: `-rwxr-xr-x`.
    pub mode: String,
    /// Owner and group by number: `0/0`.
    pub owner: String,
    /// Where it leads, of a link.
    pub to: Option<String>,
    /// In bytes.
    pub size: u64,
}

/// The archive of a variant, `default` or `slim`, for this machine: in `$ROLEGATE_IMAGES`, or where `make image` leaves
/// it. The error is why a test is skipped.
///
/// # Errors
/// When it is not there.
pub fn archive(variant: &str) -> Result<PathBuf, String> {
    let directory = std::env::var_os("ROLEGATE_IMAGES").map_or_else(made_here, PathBuf::from);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => return Err(format!("there is no image for {other}")),
    };
    let name = match variant {
        "default" => format!("rolegate-{architecture}.oci.tar"),
        other => format!("rolegate-{other}-{architecture}.oci.tar"),
    };
    let path = directory.join(name);
    if path.is_file() { Ok(path) } else { Err(format!("no {}: `make image`", path.display())) }
}

fn made_here() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    repository.join(target).join("image")
}

// === impl Image ===

impl Image {
    /// Reads an archive of one image with one layer.
    ///
    /// # Errors
    /// When it is not that.
    pub fn open(archive: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        netns::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(directory.path()))?;
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            directory.path().join("blobs").join(digest.replace(':', "/"))
        };
        let index = read_json(&directory.path().join("index.json"))?;
        let manifest = read_json(&blob(&index["manifests"][0]))?;
        anyhow::ensure!(manifest["layers"].as_array().is_some_and(|layers| layers.len() == 1), "{manifest}");
        let config = read_json(&blob(&manifest["config"]))?;
        Ok(Self { layer: blob(&manifest["layers"][0]), config, directory })
    }

    /// One label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.config["config"]["Labels"][name].as_str()
    }

    /// All that is in it, in the order of its paths.
    ///
    /// # Errors
    /// When its layer cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let listed = netns::run(Command::new("tar").arg("-tvf").arg(&self.layer).arg("--numeric-owner"))?;
        let mut entries = listed.lines().map(entry).collect::<Result<Vec<_>>>()?;
        entries.sort();
        Ok(entries)
    }

    /// Unpacks it; the directory goes with this value.
    ///
    /// # Errors
    /// When its layer cannot be read.
    pub fn unpack(&self) -> Result<PathBuf> {
        let root = self.directory.path().join("root");
        if !root.exists() {
            std::fs::create_dir(&root)?;
            netns::run(Command::new("tar").arg("-xf").arg(&self.layer).arg("-C").arg(&root))?;
        }
        Ok(root)
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

/// A line of `tar -tv`: mode, owner, size, day, time, path.
fn entry(line: &str) -> Result<Entry> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after.trim_start();
        word.to_owned()
    };
    let (mode, owner, size) = (word(), word(), word());
    let (_day, _time) = (word(), word());
    let (path, to) = match rest.split_once(" -> ") {
        Some((path, to)) => (path, Some(to.to_owned())),
        None => (rest, None),
    };
    let size = size.parse().with_context(|| line.to_owned())?;
    Ok(Entry { path: path.trim_end_matches('/').to_owned(), mode, owner, to, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_a_listing_is_a_file_a_directory_or_a_link() {
        let file = entry("-rwxr-xr-x 0/0          215000 2026-11-21 23:25 lib/ld so").unwrap();
        assert_eq!((file.path.as_str(), file.size, file.to), ("lib/ld so", 215_000, None));
        let directory = entry("drwxrwxrwt 0/0 0 2026-11-21 23:25 tmp/").unwrap();
        assert_eq!((directory.path.as_str(), directory.mode.as_str()), ("tmp", "drwxrwxrwt"));
        let link = entry("lrwxrwxrwx 0/0 0 2026-11-21 23:25 a -> b").unwrap();
        assert_eq!((link.path.as_str(), link.to.as_deref()), ("a", Some("b")));
    }
}
