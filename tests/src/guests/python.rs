//! The tools' Python in a container of any image: its directories, mounted read-only from the node.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::clients::cache;

/// Where it is on the node and in the container.
#[derive(Debug)]
pub struct HostPython {
    program: PathBuf,
    /// Name, path on the node, path in the container.
    directories: Vec<(&'static str, PathBuf, PathBuf)>,
}

// === impl HostPython ===

impl HostPython {
    /// The one that `tests/tools/setup.sh` made, with botocore.
    #[must_use]
    pub fn find() -> Self {
        let venv = cache().join("venv");
        let venv = venv.canonicalize().unwrap_or(venv);
        let program = venv.join("bin/python");
        let mut directories = vec![
            ("usr", "/usr".into(), "/usr".into()),
            ("lib", "/usr/lib".into(), "/lib".into()),
            ("lib64", "/usr/lib64".into(), "/lib64".into()),
            ("venv", venv.clone(), venv),
        ];
        // The interpreter behind it, with its library, may be elsewhere.
        let prefix =
            program.canonicalize().ok().and_then(|real| real.ancestors().nth(2).map(Path::to_path_buf));
        if let Some(prefix) = prefix.filter(|prefix| !prefix.starts_with("/usr")) {
            directories.push(("python", prefix.clone(), prefix));
        }
        Self { program, directories }
    }

    /// What the container runs.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `volumes` of the pod.
    #[must_use]
    pub fn volumes(&self) -> Value {
        let volume = |(name, host, _): &(&str, PathBuf, PathBuf)| json!({"name": name, "hostPath": {"path": host, "type": "Directory"}});
        self.directories.iter().map(volume).collect()
    }

    /// `volumeMounts` of the container.
    #[must_use]
    pub fn mounts(&self) -> Value {
        let mount = |(name, _, inside): &(&str, PathBuf, PathBuf)| json!({"name": name, "mountPath": inside, "readOnly": true});
        self.directories.iter().map(mount).collect()
    }
}
