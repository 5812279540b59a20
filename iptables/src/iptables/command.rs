//! Runs one external program: found once, no shell, a deadline, and an error that says what it said.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::spawn_blocking;

/// Longest that a program may take, in all. Listing 40,000 rules takes well under a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where programs are looked for when the environment does not say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started or talked to.
    #[error("{command}: {source}")]
    Io {
        /// Its name and arguments.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time, and was killed.
    #[error("{command}: no end after {} s", DEADLINE.as_secs())]
    TimedOut {
        /// Its name and arguments.
        command: String,
    },
    /// It ended with an error.
    #[error("{command}: {status}: {message}")]
    Failed {
        /// Its name and arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The first line that it wrote to standard error.
        message: String,
    },
}

/// A program by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
}

// === impl Program ===

impl Program {
    /// The first executable called `name` in `search` (as `PATH`, entries that are not absolute ignored).
    pub(crate) fn find(name: &str, search: &OsStr) -> Option<Self> {
        std::env::split_paths(search)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok())
            .map(|path| Self { path })
    }

    /// Runs it to its end and returns what it printed.
    pub(crate) async fn run(&self, args: &[&str], input: Option<&str>) -> Result<String, CommandError> {
        let command = || format!("{} {}", self.path.display(), args.join(" ")).trim_end().to_owned();
        let failed = |source| CommandError::Io { command: command(), source };
        let output = tokio::time::timeout(DEADLINE, self.output(args, input))
            .await
            .map_err(|_| CommandError::TimedOut { command: command() })?
            .map_err(failed)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let first = stderr.lines().map(str::trim).find(|line| !line.is_empty());
            let message = first.unwrap_or("no message").to_owned();
            return Err(CommandError::Failed { command: command(), status: output.status, message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn output(&self, args: &[&str], input: Option<&str>) -> io::Result<Output> {
        let mut command = Command::new(&self.path);
        command
            .args(args)
            .env("LC_ALL", "C")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // The thread that spawns waits until the program is loaded: not one that requests wait for.
        let mut child = spawn_blocking(move || command.spawn()).await.map_err(io::Error::other)??;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A program that ends before it has read everything says why by its status.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    }
}

/// `PATH`, or the usual directories where it is not set (an image without a shell has none).
#[must_use]
pub fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| USUAL_PATH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str) -> Program {
        Program::find(name, &search_path()).expect(name)
    }

    #[tokio::test]
    async fn output_is_returned_and_input_reaches_it() {
        assert_eq!(program("cat").run(&[], Some("one\ntwo\n")).await.expect("cat"), "one\ntwo\n");
    }

    #[tokio::test]
    async fn an_error_names_command_status_and_the_first_line_it_said() {
        let error = program("sh").run(&["-c", "echo first >&2; echo second >&2; exit 3"], None).await;
        let text = error.expect_err("fails").to_string();
        assert!(
            text.ends_with("/sh -c echo first >&2; echo second >&2; exit 3: exit status: 3: first"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_given_up() {
        let error = program("sleep").run(&["1000"], None).await.expect_err("hangs");
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn only_absolute_directories_are_searched() {
        assert_eq!(Program::find("sh", OsStr::new("bin:.:")), None);
        assert_eq!(Program::find("no-such-program", &search_path()), None);
    }
}
