//! `bare-hyper`: answers with bytes that it is given; what the agent is measured against.

use std::net::SocketAddr;

use clap::Parser;
use nix::sys::socket::{setsockopt, sockopt};
use rolegate_benches::bare::serve;
use rolegate_benches::flags::AnswerFlags;
use tokio::net::{TcpListener, TcpSocket};

/// As many as tokio's own listeners have.
const BACKLOG: u32 = 1024;

/// A hyper server that answers with the bytes it is given.
#[derive(Parser)]
struct Args {
    /// Where it listens; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where it listens as well; an address that is none of the host's.
    #[arg(long)]
    transparent: Option<SocketAddr>,
    #[command(flatten)]
    answer: AnswerFlags,
    /// Worker threads, as many as the agent has.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let answer = args.answer.answer()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.workers).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        let transparent = args.transparent.map(listen_transparently).transpose()?;
        println!("{}", listener.local_addr()?);
        match transparent {
            Some(second) => {
                tokio::try_join!(serve(listener, answer.clone()), serve(second, answer)).map(drop)
            }
            None => serve(listener, answer).await,
        }
    })
}

/// As capture `route` of the agent does.
fn listen_transparently(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    socket.bind(at)?;
    Ok(socket.listen(BACKLOG)?)
}
