//! `report`: runs everything that measures, keeps the figures, and draws docs/performance.md from them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rolegate_benches::figures::Run;
use rolegate_benches::page::{goals, others, steps, tables, with_tables};
use rolegate_benches::plot;
use rolegate_tests::world::World;
use serde_json::Value;

/// Runs `e2e`, `fairness`, `herd` and `start`, writes what they say to files, and puts tables and plots made from all the files
/// there into the page. Needs root (or a user namespace: tests/tools/as-root.sh).
#[derive(Parser)]
struct Args {
    /// Where figures are kept. Those of other programs are read too.
    #[arg(long, default_value = "target/bench")]
    figures: PathBuf,
    /// The page. Plots are put into a directory beside it, of its name without the ending.
    #[arg(long, default_value = "docs/performance.md")]
    page: PathBuf,
    /// Where criterion leaves its figures, if it was run.
    #[arg(long, default_value = "target/criterion")]
    steps: PathBuf,
    /// Only draw what was measured before.
    #[arg(long)]
    draw: bool,
    /// Only these programs.
    #[arg(long = "program")]
    programs: Vec<String>,
}

/// What measures, with flags that keep all of it within some twenty minutes.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("e2e", &[]),
    ("fairness", &["--rounds=4", "--seconds=6"]),
    ("herd", &["--herds=8"]),
    ("start", &["--api=real"]),
];

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.figures)?;
    let mut failed = Vec::new();
    if !args.draw {
        if let Some(why) = World::missing() {
            rolegate_tests::skip("report", &why);
            return Ok(());
        }
        for (program, flags) in PROGRAMS {
            if args.programs.is_empty() || args.programs.iter().any(|wanted| wanted == program) {
                // What missed a limit has figures all the same.
                if let Err(error) = measure(program, flags, &args.figures) {
                    eprintln!("report: {error:#}");
                    failed.push(program);
                }
            }
        }
    }
    draw(&args)?;
    ensure!(failed.is_empty(), "failed or missed a limit: {failed:?}");
    Ok(())
}

fn measure(program: &str, flags: &[&str], figures: &Path) -> Result<()> {
    let partial = figures.join(format!("{program}.json.partial"));
    let path = std::env::current_exe()?.with_file_name(program);
    let mut command = Command::new(&path);
    command.arg("--output=json").args(flags).stdout(File::create(&partial)?);
    let status = command.status().with_context(|| format!("start {}", path.display()))?;
    // What failed half-way leaves the figures of the last run.
    if read(&partial).is_ok() {
        std::fs::rename(&partial, figures.join(format!("{program}.json")))?;
    } else {
        std::fs::remove_file(&partial)?;
    }
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

fn draw(args: &Args) -> Result<()> {
    let files = all(&args.figures)?;
    let run = files.get("e2e").cloned().map(serde_json::from_value::<Run>).transpose().context("e2e.json")?;
    let mut made = BTreeMap::from([("goals", goals::table(run.as_ref(), &files))]);
    made.extend(steps::steps(&args.steps)?.map(|table| ("steps", table)));
    if let Some(run) = &run {
        made.extend([
            ("e2e", tables::document(run)),
            ("rates", tables::rates(run)),
            ("scenarios", tables::scenarios(run)),
            ("floor", tables::floor(run)),
            ("memory-of-servers", tables::memory(run)),
        ]);
        let directory = args.page.with_extension("");
        std::fs::create_dir_all(&directory)?;
        for (name, picture) in plot::all(run) {
            std::fs::write(directory.join(name), picture)?;
        }
        let made_by = [
            ("fairness", others::fairness as fn(&_, &_) -> _),
            ("herd", others::herd),
            ("start", others::start),
        ];
        made.extend(
            made_by
                .into_iter()
                .filter_map(|(name, table)| Some((name, table(files.get(name)?, &run.machine)))),
        );
    }
    let page = std::fs::read_to_string(&args.page).with_context(|| format!("{}", args.page.display()))?;
    std::fs::write(&args.page, with_tables(&page, &made)?)?;
    eprintln!("report: {} and its plots are drawn from {}", args.page.display(), args.figures.display());
    Ok(())
}

/// All files of figures by their names.
fn all(directory: &Path) -> Result<BTreeMap<String, Value>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if let (Some(name), Some("json")) = (path.file_stem(), path.extension().and_then(|end| end.to_str()))
        {
            files.insert(name.to_string_lossy().into_owned(), read(&path)?);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Value> {
    serde_json::from_reader(File::open(path)?).with_context(|| format!("{}", path.display()))
}
