//! `bare-blocking`: answers with bytes that it is given, one client after the other; the floor of what is measured.

use std::net::{SocketAddr, TcpListener};

use clap::Parser;
use rolegate_benches::blocking::serve;
use rolegate_benches::flags::AnswerFlags;

/// One thread that accepts, reads, answers and closes.
#[derive(Parser)]
struct Args {
    /// Where it listens; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    answer: AnswerFlags,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let answer = args.answer.answer()?;
    let listener = TcpListener::bind(args.listen)?;
    println!("{}", listener.local_addr()?);
    Ok(serve(&listener, &answer)?)
}
