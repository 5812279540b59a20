//! The key's file: 32 random bytes, a plain file of ours that nobody else can read, replaced as a whole.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Uid;
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
    #[error("the token key at {path} was readable by others (owner {owner}, mode {mode:o}) and is replaced")]
    Exposed {
        /// Where it is.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
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
    let (key, warning) = match read(&path) {
        Ok(Found::Key(key)) => (key, None),
        Ok(Found::Nothing) => create(state_dir, &path, None),
        Ok(Found::Unfit(warning)) => create(state_dir, &path, Some(warning)),
        // Never replace what cannot be read: it may be good, and the fault temporary.
        Err(source) => (new_key(), Some(KeyWarning::InMemory { path, source })),
    };
    if !matches!(warning, Some(KeyWarning::InMemory { .. })) {
        remove_unfinished(state_dir);
    }
    (key, warning)
}

fn create(state_dir: &Path, path: &Path, unfit: Option<KeyWarning>) -> (Key, Option<KeyWarning>) {
    let key = new_key();
    match store(state_dir, path, &key, unfit.is_some()) {
        Ok(None) => (key, unfit),
        Ok(Some(theirs)) => (theirs, unfit),
        Err(source) => (key, Some(KeyWarning::InMemory { path: path.to_owned(), source })),
    }
}

fn read(path: &Path) -> io::Result<Found> {
    let damaged = || Ok(Found::Unfit(KeyWarning::Replaced { path: path.to_owned() }));
    // A link may lead anywhere, and opening a pipe waits for its writer.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if is(&error, Errno::ELOOP) || is(&error, Errno::ENXIO) => return damaged(),
        // Root without its capabilities reads what is its own: of another's file it is enough to know that.
        Err(error) if is(&error, Errno::EACCES) => {
            return exposed(path, &fs::symlink_metadata(path)?).map(Found::Unfit).ok_or(error);
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return damaged();
    }
    if let Some(warning) = exposed(path, &metadata) {
        return Ok(Found::Unfit(warning));
    }
    let mut key = Key::default();
    if metadata.len() != KEY_BYTES as u64 {
        return damaged();
    }
    file.read_exact(key.as_mut())?;
    // What a file system may leave of a file that was not written to the end.
    if key.iter().all(|byte| *byte == key[0]) {
        return damaged();
    }
    Ok(Found::Key(key))
}

fn exposed(path: &Path, metadata: &Metadata) -> Option<KeyWarning> {
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o777);
    (owner != Uid::effective().as_raw() || mode & 0o077 != 0).then(|| KeyWarning::Exposed {
        path: path.to_owned(),
        owner,
        mode,
    })
}

/// Writes the key beside `path` and moves it there. Where another process was first with a key that is not to be
/// replaced, its key is the answer.
fn store(state_dir: &Path, path: &Path, key: &Key, replace: bool) -> io::Result<Option<Key>> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    // A name of its own: process ids repeat between containers that share the directory.
    let beside = state_dir.join(format!("{FILE}.{:016x}", u64::from_ne_bytes(random())));
    let stored = write(&beside, key).and_then(|()| {
        let moved = if replace { fs::rename(&beside, path) } else { fs::hard_link(&beside, path) };
        match moved {
            // The other was first, or has tidied up after itself in between.
            Err(error) if is(&error, Errno::EEXIST) || is(&error, Errno::ENOENT) => match read(path)? {
                Found::Key(theirs) => Ok(Some(theirs)),
                Found::Nothing | Found::Unfit(_) => Err(error),
            },
            moved => moved.map(|()| None),
        }
    });
    remove(&beside).and(stored).and_then(|stored| {
        File::open(state_dir)?.sync_all()?;
        Ok(stored)
    })
}

/// What a process that was killed between writing and moving left. A key is in its place by now, so one that is
/// at it just now takes that.
fn remove_unfinished(state_dir: &Path) {
    let entries = fs::read_dir(state_dir).into_iter().flatten().map_while(Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(FILE)?.strip_prefix('.'));
        if suffix.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            // Where it cannot be removed it stays: it is readable by us alone.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// After a rename there is nothing left to remove.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if is(&error, Errno::ENOENT) { Ok(()) } else { Err(error) })
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn write(path: &Path, key: &Key) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.as_ref())?;
    file.sync_all()
}

fn new_key() -> Key {
    Zeroizing::new(random())
}

#[expect(clippy::expect_used, reason = "a process without randomness must not issue tokens")]
fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}
