//! argv to exit code.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use rolegate::app;
use rolegate::config::{self, Command};

/// Requests are memory look-ups, and AWS and Kubernetes wait on the network: two threads serve a node.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    // First of all: the command line and the environment may hold a token.
    if let Err(error) = app::forbid_dumps() {
        let _ = writeln!(std::io::stderr(), "rolegate: this process can be dumped into a file: {error}");
        return ExitCode::FAILURE;
    }
    let command = match config::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(exit) => {
            let written = if exit.to_stdout {
                writeln!(std::io::stdout(), "{}", exit.text.trim_end())
            } else {
                writeln!(std::io::stderr(), "{}", exit.text.trim_end())
            };
            return if written.is_ok() { ExitCode::from(exit.code) } else { ExitCode::FAILURE };
        }
    };
    let ended = match command {
        Command::Run(config) => app::prepare(*config).and_then(|prepared| on_runtime(app::run(prepared))),
        Command::Guard { preference, json } => on_runtime(app::guard(preference, json)),
        Command::Cleanup { peers, stay, json } => on_runtime(app::cleanup(peers, stay, json)),
        Command::Probe { patience, json } => on_runtime(app::probe(patience, json)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rolegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("rolegate")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let ended = runtime.block_on(work);
    // A blocked look-up must not hold the exit up: everything that matters was awaited by then.
    runtime.shutdown_background();
    ended
}
