//! argv to exit code.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("rolegate")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rolegate: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = match command {
        Command::Run(config) => runtime.block_on(app::run(*config)),
        Command::Guard { json } => runtime.block_on(app::guard(json)),
        Command::Cleanup { peers, json } => runtime.block_on(app::cleanup(peers, json)),
    };
    // A blocked look-up must not hold the exit up: everything that matters was awaited by then.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rolegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
