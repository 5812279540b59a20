//! `bare-hyper`: answers every request with the same bytes; what the agent is measured against.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use hyper::header::{HeaderName, HeaderValue};
use rolegate_benches::bare::{Answer, serve};
use tokio::net::TcpListener;

/// A hyper server that answers every request with the same bytes.
#[derive(Parser)]
struct Args {
    /// Where it listens; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// File with the body.
    #[arg(long)]
    body: PathBuf,
    /// Header lines of the answer.
    #[arg(long = "header", default_values = ["server: EC2ws", "content-type: text/plain", "connection: close"])]
    headers: Vec<String>,
    /// Worker threads, as many as the agent has.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let body = std::fs::read(&args.body).with_context(|| format!("{}", args.body.display()))?;
    let headers = args.headers.iter().map(|line| header(line)).collect::<anyhow::Result<_>>()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.workers).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        println!("{}", listener.local_addr()?);
        serve(listener, Answer { headers, body: body.into() }).await
    })
}

fn header(line: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is no header line"))?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}
