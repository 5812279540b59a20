//! Tracked connections to the metadata service are forgotten, others and those redirected are not.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use rolegate_iptables::conntrack::delete_imds_entries;

use crate::host::{Netns, can_run};

fn forget(netns: &Netns, redirected_to: Vec<SocketAddr>) -> usize {
    netns.block_on(move || async move { delete_imds_entries(&redirected_to).await.expect("conntrack") })
}

#[test]
fn entries_of_both_families_go_and_only_those() {
    if !can_run("entries_of_both_families_go_and_only_those", &["nft"]) {
        return;
    }
    let netns = Netns::new();
    netns.sh(
        "ip addr add 169.254.169.254/32 dev lo; ip -6 addr add fd00:ec2::254/128 dev lo nodad
         for t in iptables-nft ip6tables-nft; do $t -A OUTPUT -m conntrack --ctstate INVALID -j ACCEPT; done
         ip addr add 10.7.0.1/32 dev lo
         iptables-nft -t nat -A OUTPUT -d 169.254.169.254 -p tcp --dport 81 -j DNAT --to-destination 10.7.0.1:8181",
    );
    let open = netns.spawn(|| {
        let connect = |to: &str, at: &str| {
            let listener = TcpListener::bind(at).expect("listener");
            let mut client = TcpStream::connect(to).expect("connected");
            let (mut server, _) = listener.accept().expect("accepted");
            client.write_all(b"x").expect("sent");
            server.read_exact(&mut [0]).expect("received");
            (client, server)
        };
        [
            connect("169.254.169.254:80", "169.254.169.254:80"),
            connect("[fd00:ec2::254]:80", "[fd00:ec2::254]:80"),
            connect("127.0.0.1:82", "127.0.0.1:82"),
            connect("169.254.169.254:81", "10.7.0.1:8181"),
        ]
    });
    let open = open.join().expect("connections");
    let target = SocketAddr::new(IpAddr::from([10, 7, 0, 1]), 8181);
    assert_eq!(forget(&netns, vec![target]), 2);
    assert_eq!(forget(&netns, vec![target]), 0);
    assert_eq!(forget(&netns, Vec::new()), 1, "the redirected one, when it is not wanted any more");
    drop(open);
}

#[test]
fn an_empty_table_is_not_an_error() {
    if can_run("an_empty_table_is_not_an_error", &[]) {
        assert_eq!(forget(&Netns::new(), Vec::new()), 0);
    }
}
