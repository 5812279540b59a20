//! Control groups of a kubelet: two kubelets that share one take each other's pods for orphans.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the group `name` in every hierarchy.
pub(super) fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        // Version 2: the kubelet wants these to be there. Some kernels lack one; it says so itself.
        for controller in ["cpu", "cpuset", "memory", "pids", "io"] {
            let _ = std::fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let group = hierarchy.join(name);
        std::fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
        // A new one has no processors and no memory of its own, and would take no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let from = hierarchy.join(file);
            if from.exists() && group.join(file).exists() {
                std::fs::write(group.join(file), std::fs::read_to_string(from)?)?;
            }
        }
    }
    Ok(())
}

/// Removes the group and all below it; its processes must have ended.
pub(super) fn remove(name: &str) {
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(name));
    }
}

/// Where the group is still there.
pub(super) fn left(name: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|hierarchy| hierarchy.join(name)).filter(|group| group.exists()).collect()
}

/// Groups whose names begin so, each once.
pub(super) fn named(prefix: &str) -> Vec<String> {
    let mut names: Vec<_> = hierarchies()
        .iter()
        .filter_map(|hierarchy| std::fs::read_dir(hierarchy).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// One of version 2, or one for each controller of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect()
}

fn remove_tree(group: &Path) {
    let Ok(entries) = std::fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    // What cannot be removed is found by who looks for what is left.
    let _ = std::fs::remove_dir(group);
}
