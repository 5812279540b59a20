//! The command line and `ROLEGATE_*` variables as text: which flags there are, not what they mean (see `config`).

mod docs;
mod run;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use docs::flags_markdown;
pub use run::{
    CredentialsArgs, KubernetesArgs, LogArgs, MetadataArgs, NamespaceArgs, RedirectArgs, RoleArgs, RunArgs,
    STARTUP_TAINT, ServerArgs,
};

/// Exit code of a mistake in flags or environment (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Version, and of which source the binary is where the build says so.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let revision = option_env!("ROLEGATE_REVISION").unwrap_or("unknown revision");
    format!("{} ({revision})", env!("CARGO_PKG_VERSION"))
});

/// An end before anything was begun: help, version, or mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of the process.
    pub code: u8,
    /// What to print, with its newline.
    pub text: String,
    /// On standard output; else on standard error.
    pub to_stdout: bool,
}

/// What was asked for, as text.
#[derive(Debug)]
pub enum Invocation {
    /// `run`, or no subcommand.
    Run {
        /// Its flags; where a flag was absent, the environment's value.
        args: Box<RunArgs>,
        /// Flags that there are not, each in a sentence.
        unknown: Vec<String>,
    },
    /// `guard`.
    Guard(GuardArgs),
    /// `cleanup`.
    Cleanup(CleanupArgs),
    /// `probe`.
    Probe(ProbeArgs),
}

/// Credentials for pods: answers the EC2 instance metadata service with each pod's own role.
#[derive(Debug, Parser)]
#[command(
    name = "rolegate",
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    disable_help_subcommand = true,
    after_help = "Every flag is also read from ROLEGATE_<FLAG>, in capitals with _ for -; a flag goes before its variable.\nBOOL is true or false, and true where it is left out. TIME is written as 15m, 1h30m or 900ms."
)]
struct Cli {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Answers pods on this node until it is stopped (the default)
    Run(Box<RunArgs>),
    /// Closes the way to the node's credentials and ends: for boot, before the kubelet starts
    Guard(GuardArgs),
    /// Removes the redirect and the guards that rolegate made, and nothing else
    Cleanup(CleanupArgs),
    /// Asks the metadata service as any pod does, and says whether rolegate answers
    Probe(ProbeArgs),
    /// Prints docs/flags.md
    #[command(hide = true)]
    DocsFlags,
}

/// Flags of `cleanup`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Cleanup")]
pub struct CleanupArgs {
    /// Removes the rules of kube2iam and kiam as well [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub peers: Option<String>,
    /// Does not end afterwards, until it is told to: for a DaemonSet [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub stay: Option<String>,
    /// How the result is printed: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Flags of `guard`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Guard")]
pub struct GuardArgs {
    /// Preference of the first policy rule, as the agent has it [default: 2]
    #[arg(long, value_name = "NUMBER")]
    pub rule_preference: Option<String>,
    /// How the result is printed: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Flags of `probe`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Probe")]
pub struct ProbeArgs {
    /// How long it is asked again where nobody answers, or the agent does not know this pod yet [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub wait: Option<String>,
    /// How the result is printed: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Reads `argv` (with the program's name) and the environment.
///
/// # Errors
/// [`Exit`] for help, version and documentation (code 0), and for what leaves nothing to be read (code 64).
pub fn read(argv: impl Iterator<Item = OsString>) -> Result<Invocation, Exit> {
    read_with(argv.collect(), |name| std::env::var_os(name))
}

/// The environment's value, where it is not empty.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
}

/// [`read`], with the environment as a function.
pub(crate) fn read_with(
    mut argv: Vec<OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, Exit> {
    if argv.is_empty() {
        argv.push("rolegate".into());
    }
    let (matches, unknown) = matches(&mut argv)?;
    let from_env = absent_from(&matches, env);
    if !from_env.is_empty() {
        let at = if matches.subcommand_name().is_some() { 2 } else { 1 };
        argv.splice(at..at, from_env);
    }
    let again = command().try_get_matches_from(&argv).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = again.map_err(|error| exit_of(&error))?;
    match cli.action {
        None => Ok(Invocation::Run { args: Box::new(cli.run), unknown }),
        Some(Action::Run(args)) => Ok(Invocation::Run { args, unknown }),
        Some(Action::Guard(_) | Action::Cleanup(_) | Action::Probe(_)) if !unknown.is_empty() => {
            Err(usage(&unknown.join("\n")))
        }
        Some(Action::Guard(args)) => Ok(Invocation::Guard(args)),
        Some(Action::Cleanup(args)) => Ok(Invocation::Cleanup(args)),
        Some(Action::Probe(args)) => Ok(Invocation::Probe(args)),
        Some(Action::DocsFlags) => Err(Exit { code: 0, text: flags_markdown(), to_stdout: true }),
    }
}

/// An exit for mistakes.
pub(crate) fn usage(text: &str) -> Exit {
    Exit { code: EXIT_USAGE, text: format!("{text}\n"), to_stdout: false }
}

fn command() -> clap::Command {
    Cli::command().version(VERSION.as_str())
}

/// Parses `argv`, without the flags that there are not: those are taken out and named.
fn matches(argv: &mut Vec<OsString>) -> Result<(ArgMatches, Vec<String>), Exit> {
    let mut unknown = Vec::new();
    loop {
        let error = match command().try_get_matches_from(argv.iter()) {
            Ok(matches) => return Ok((matches, unknown)),
            Err(error) => error,
        };
        match unknown_flag(&error).filter(|flag| take_out(argv, flag)) {
            Some(flag) => unknown.push(sentence(&flag, &error)),
            None => {
                let exit = exit_of(&error);
                let text = unknown.iter().map(|it| format!("{it}\n")).chain([exit.text]).collect();
                return Err(Exit { text, ..exit });
            }
        }
    }
}

fn unknown_flag(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => Some(flag.clone()),
        _ => None,
    }
}

/// Takes `flag` (also `flag=value`) out of `argv`, and what follows it if that could be its value.
fn take_out(argv: &mut Vec<OsString>, flag: &str) -> bool {
    let is_it = |arg: &OsStr| {
        let text = arg.to_string_lossy();
        text.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let Some(at) = argv.iter().skip(1).position(|arg| is_it(arg)).map(|at| at + 1) else {
        return false;
    };
    let separate = flag.starts_with("--") && argv[at].to_string_lossy() == flag;
    argv.remove(at);
    if separate && argv.get(at).is_some_and(|next| !next.to_string_lossy().starts_with('-')) {
        argv.remove(at);
    }
    true
}

/// `--flag=value` for every flag that was not given and whose variable is set.
fn absent_from(matches: &ArgMatches, env: impl Fn(&str) -> Option<OsString>) -> Vec<OsString> {
    let command = command();
    let (given, flags) = match matches.subcommand() {
        None => (matches, docs::flags(&command)),
        Some((name, given)) => (given, command.find_subcommand(name).map(docs::flags).unwrap_or_default()),
    };
    let mut found = Vec::new();
    for arg in flags {
        let absent = given.value_source(arg.get_id().as_str()) != Some(ValueSource::CommandLine);
        let value = env(&docs::variable(&arg)).filter(|value| absent && !value.is_empty());
        if let (Some(value), Some(long)) = (value, arg.get_long()) {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            found.push(flag);
        }
    }
    found
}

fn sentence(flag: &str, error: &clap::Error) -> String {
    match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(similar)) => format!("{flag}: there is no such flag; there is {similar}"),
        _ => format!("{flag}: there is no such flag"),
    }
}

fn exit_of(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    if error.use_stderr() {
        Exit { code: EXIT_USAGE, text, to_stdout: false }
    } else {
        Exit { code: 0, text, to_stdout: true }
    }
}
