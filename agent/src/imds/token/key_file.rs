//! The key's file: 32 random bytes, readable by its owner only, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::KEY_BYTES;

/// The file in the state directory.
const FILE: &str = "imds-token.key";

/// What the operator should know about the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyWarning {
    /// The key could not be kept.
    #[error("the token key cannot be kept at {path}: tokens will be refused after a restart")]
    InMemory {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There was a file that holds no key.
    #[error("the token key at {path} was damaged and is replaced: tokens issued with it are refused")]
    Replaced {
        /// Where it is.
        path: PathBuf,
    },
    /// Others could read it.
    #[error("the token key at {path} was readable by others (mode {mode:o}) and is replaced")]
    Exposed {
        /// Where it is.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// What was found at the path.
enum Found {
    Key(Key),
    Nothing,
    Unfit(KeyWarning),
}

/// The key of the file, or a new one that is in the file unless a warning says otherwise.
pub(super) fn load_or_create(state_dir: &Path) -> (Key, Option<KeyWarning>) {
    let path = state_dir.join(FILE);
    let in_memory = |source| KeyWarning::InMemory { path: path.clone(), source };
    let (key, warning) = match read(&path) {
        Ok(Found::Key(key)) => return (key, None),
        Ok(Found::Nothing) => (random(), None),
        Ok(Found::Unfit(warning)) => (random(), Some(warning)),
        // Never replace what cannot be read: it may be good, and the fault temporary.
        Err(error) => return (random(), Some(in_memory(error))),
    };
    match store(state_dir, &path, &key, warning.is_some()) {
        Ok(None) => (key, warning),
        Ok(Some(theirs)) => (theirs, warning),
        Err(error) => (key, Some(in_memory(error))),
    }
}

fn read(path: &Path) -> io::Result<Found> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Ok(Found::Unfit(KeyWarning::Exposed { path: path.to_owned(), mode }));
    }
    let mut key = Key::default();
    if metadata.len() == KEY_BYTES as u64 && file.read_exact(key.as_mut()).is_ok() {
        return Ok(Found::Key(key));
    }
    Ok(Found::Unfit(KeyWarning::Replaced { path: path.to_owned() }))
}

/// Writes the key beside `path` and moves it there. Where another process was first with a file that is not
/// to be replaced, its key is the answer.
fn store(state_dir: &Path, path: &Path, key: &Key, replace: bool) -> io::Result<Option<Key>> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let beside = state_dir.join(format!("{FILE}.{}", std::process::id()));
    let stored = write(&beside, key).and_then(|()| {
        if replace {
            return fs::rename(&beside, path).map(|()| None);
        }
        match fs::hard_link(&beside, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read(path)? {
                Found::Key(theirs) => Ok(Some(theirs)),
                Found::Nothing | Found::Unfit(_) => Err(error),
            },
            linked => linked.map(|()| None),
        }
    });
    // After a rename there is nothing left to remove.
    let removed = fs::remove_file(&beside);
    let stored = stored?;
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    File::open(state_dir)?.sync_all()?;
    Ok(stored)
}

fn write(path: &Path, key: &Key) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // The mode above is only asked for when the file is made.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(key.as_ref())?;
    file.sync_all()
}

#[expect(clippy::expect_used, reason = "a process without randomness must not issue tokens")]
fn random() -> Key {
    let mut key = Key::default();
    aws_lc_rs::rand::fill(key.as_mut()).expect("the system gives random bytes");
    key
}
