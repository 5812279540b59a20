//! Two small images made of Debian's static busybox: what holds a pod, and what tests run in pods.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::netns;

/// What holds a pod: busybox that sleeps.
pub(super) const PAUSE: &str = "localhost/pause:1";
/// busybox with its programs, a shell among them.
pub const TOOLS: &str = "localhost/tools:1";

/// Writes an OCI archive with both into `dir`; its path.
///
/// # Errors
/// When busybox is missing, or `tar` fails.
pub(super) fn archive(dir: &Path) -> Result<PathBuf> {
    let (root, layout) = (dir.join("root"), dir.join("layout"));
    std::fs::create_dir_all(layout.join("blobs/sha256"))?;
    for part in ["bin", "tmp", "etc", "root"] {
        std::fs::create_dir_all(root.join(part))?;
    }
    std::fs::copy(busybox()?, root.join("bin/busybox")).context("copy busybox")?;
    for line in netns::run(std::process::Command::new("busybox").arg("--list"))?.lines() {
        if line != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(line))?;
        }
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    let layer_file = dir.join("layer.tar");
    tar(&layer_file, &root)?;
    let layer = blob(&layout, &std::fs::read(&layer_file)?, "application/vnd.oci.image.layer.v1.tar")?;
    let manifests = [(PAUSE, json!(["/bin/busybox", "sleep", "2147483647"])), (TOOLS, json!(["/bin/sh"]))]
        .into_iter()
        .map(|(name, command)| manifest(&layout, name, &layer, &command))
        .collect::<Result<Vec<_>>>()?;
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let made = dir.join("images.tar");
    tar(&made, &layout)?;
    Ok(made)
}

/// The manifest's descriptor, with the image's name.
fn manifest(layout: &Path, name: &str, layer: &Value, command: &Value) -> Result<Value> {
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(layout, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json")?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer],
    });
    let mut made = blob(layout, manifest.to_string().as_bytes(), media_type)?;
    made["annotations"] = json!({"io.containerd.image.name": name});
    Ok(made)
}

/// Keeps bytes in the layout; their descriptor.
fn blob(layout: &Path, bytes: &[u8], media_type: &str) -> Result<Value> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(layout.join("blobs/sha256").join(&hex), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()}))
}

fn tar(to: &Path, root: &Path) -> Result<()> {
    let mut command = std::process::Command::new("tar");
    command.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--file"]);
    netns::run(command.arg(to).arg("--directory").arg(root).arg(".")).map(drop)
}

fn busybox() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("busybox"))
        .find(|file| file.is_file())
        .context("`busybox` is not installed")
}

/// As images name it.
pub(super) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
