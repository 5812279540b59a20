use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// As containerd's libcni writes it for the bridge plugin.
fn file() -> Value {
    json!({
        "kind": "cniCacheV1",
        "containerId": "4d3f",
        "config": "e30=",
        "ifName": "eth0",
        "networkName": "kubenet",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "default"], ["K8S_POD_UID", "uid-1"]],
        "capabilityArgs": {"portMappings": []},
        "result": {
            "cniVersion": "1.0.0",
            "dns": {},
            "interfaces": [
                {"name": "cbr0", "mac": "02:00:00:00:00:01"},
                {"name": "veth12345678", "mac": "02:00:00:00:00:02"},
                {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1"},
            ],
            "ips": [
                {"address": "100.96.1.12/24", "gateway": "100.96.1.1", "interface": 2},
                {"address": "fd00:64:1::12/64", "interface": 2},
                {"address": "100.96.1.1/24", "interface": 0},
            ],
        },
    })
}

fn parse(file: &Value) -> Result<Attachment, CniError> {
    Attachment::parse(file.to_string().as_bytes())
}

fn ips(all: &[&str]) -> BTreeSet<IpAddr> {
    all.iter().map(|ip| ip.parse().expect("address")).collect()
}

#[test]
fn result_names_the_port_and_the_pods_addresses() {
    let read = parse(&file()).expect("file");
    assert_eq!(read.addresses, ips(&["100.96.1.12", "fd00:64:1::12"]), "not those of the bridge");
    assert_eq!(read.pod_uid.as_deref(), Some("uid-1"));
    assert_eq!(read.pod_macs, [vec![2, 0, 0, 0, 0, 3]].into());
    assert!(read.names("veth12345678", &[2, 0, 0, 0, 0, 2]));
    assert!(!read.names("veth12345678", &[2, 0, 0, 0, 0, 9]), "another link of that name");
    assert!(!read.names("eth0", &[2, 0, 0, 0, 0, 3]), "the name in the pod is no name on the host");
}

#[test]
fn what_may_be_left_out_may_be_left_out() {
    let mut file = file();
    let result = file["result"].as_object_mut().expect("result");
    result["interfaces"][1].as_object_mut().expect("interface").remove("mac");
    result["ips"] = json!([{"version": "4", "address": "100.96.1.12/24"}]);
    for field in ["cniArgs", "kind", "containerId", "networkName", "config"] {
        file.as_object_mut().expect("file").remove(field);
    }
    let read = parse(&file).expect("file");
    assert_eq!((read.addresses.clone(), read.pod_uid.clone()), (ips(&["100.96.1.12"]), None));
    assert!(read.names("veth12345678", &[9; 6]));
    // Version 0.2.0 of the specification names no interface, nor does a plugin without any.
    for result in [json!({"ip4": {"ip": "10.0.0.1/24"}}), json!({"interfaces": null, "ips": null})] {
        assert_eq!(parse(&json!({"result": result})).expect("file"), Attachment::default());
    }
}

#[test]
fn odd_file_affects_only_itself() {
    let directory = tempfile::tempdir().expect("directory");
    let put = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect(name);
    put("kubenet-4d3f-eth0", file().to_string().as_bytes());
    put("half", &file().to_string().as_bytes()[..80]);
    put("empty", b"");
    put("huge", &vec![b' '; 300 * 1024]);
    std::fs::create_dir(directory.path().join("directory")).expect("directory");
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let results = Results::read(directory.path());
    assert_eq!((results.attachments.len(), results.odd), (1, 5));
    assert_eq!(Results::read(&directory.path().join("missing")), Results::default());
}

proptest! {
    #[test]
    fn no_text_is_read_as_more_than_it_says(text in "\\PC{0,200}") {
        prop_assert!(Attachment::parse(text.as_bytes()).is_err());
    }

    /// Whatever is cut, changed or put in, no address and no interface appears that the text does not have.
    #[test]
    fn damaged_file_says_no_more_than_it_has(at in 0_usize..900, with in "[\\[\\]{}\",:0-9a-f]{0,6}", cut in 0_usize..40) {
        let whole = file().to_string();
        let at = at.min(whole.len());
        let text = format!("{}{with}{}", &whole[..at], &whole[(at + cut).min(whole.len())..]);
        if let Ok(read) = Attachment::parse(text.as_bytes()) {
            prop_assert!(read.host.iter().all(|link| text.contains(&link.name)));
            prop_assert!(read.addresses.len() <= text.matches("address").count());
        }
    }
}
