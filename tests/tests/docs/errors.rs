//! What SDKs say when they get no credentials is in the index of docs/troubleshooting.md, and leads to the right place.

use regex::Regex;
use rolegate_tests::clients::Client;
use rolegate_tests::skip;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{Options, RunningPod, World};

use super::pages::Page;

/// A row of the index: texts, whose they are, where it leads.
struct Row {
    /// One of these, each of them whole.
    said: Vec<Vec<String>>,
    sdk: String,
    leads: String,
}

// === impl Row ===

impl Row {
    fn fits(&self, client: Client, error: &str) -> bool {
        let said = self.said.iter().any(|texts| texts.iter().all(|text| error.contains(text)));
        said && self.sdk.contains(name(client))
    }
}

#[test]
fn errors_of_sdks_are_in_the_index_and_lead_to_their_cause() {
    let test = "errors_of_sdks_are_in_the_index_and_lead_to_their_cause";
    if let Some(why) = Client::ALL.into_iter().find_map(Client::missing) {
        return skip(test, &why);
    }
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    let rows = index();
    world.namespace("default", &["MyPodRole"]).unwrap();
    let agent = world.agent(&[]).unwrap();
    let none = world.pod("default", "none", |pod| pod).unwrap();
    let refused = world.pod("default", "refused", |pod| pod.role("OtherRole")).unwrap();
    let fine = world.pod("default", "fine", |pod| pod.role("MyPodRole")).unwrap();
    world.sts.faults().every(Some(Fault::ServerError));
    leads(&rows, &none, "#404-no-role");
    leads(&rows, &refused, "#the-role-is-refused");
    leads(&rows, &fine, "#500-sts");
    agent.kill9().unwrap();
    leads(&rows, &fine, "#no-answer");
}

/// How often an SDK is asked until it says what it says there: on a loaded machine it may run into its time-out of a
/// second anywhere.
const ATTEMPTS: usize = 10;

/// Every SDK in that pod fails, and the index leads from its words there.
fn leads(rows: &[Row], pod: &RunningPod, to: &str) {
    std::thread::scope(|scope| {
        for client in Client::ALL {
            scope.spawn(move || {
                // These two say the same of everything.
                let vague = matches!(client, Client::Botocore | Client::JavaScript);
                let to = if vague { "#ask-as-the-pod-does" } else { to };
                let mut said = Vec::new();
                let led = (0..ATTEMPTS).any(|_| {
                    let error = client.load(pod.net.ns()).unwrap_err();
                    let led = rows.iter().any(|row| row.fits(client, &error) && row.leads.contains(to));
                    said.push(error);
                    led
                });
                assert!(led, "{client:?}: no row of the index leads from this to {to}: {said:#?}");
            });
        }
    });
}

fn index() -> Vec<Row> {
    let page = Page::named("docs/troubleshooting.md").text;
    let row = Regex::new(r"(?m)^\| (`[^|]+) \| ([^|]+) \| ([^|]+) \|$").unwrap();
    let text = Regex::new("`([^`]+)`").unwrap();
    let index = &page[..page.find("## What the operator sees").unwrap()];
    row.captures_iter(index)
        .map(|row| {
            let texts = |all: &str| text.captures_iter(all).map(|text| text[1].to_owned()).collect();
            Row {
                said: row[1].split("`, ").map(|all| texts(&format!("{all}`"))).collect(),
                sdk: row[2].into(),
                leads: row[3].into(),
            }
        })
        .collect()
}

fn name(client: Client) -> &'static str {
    match client {
        Client::Botocore => "botocore",
        Client::JavaScript => "JavaScript v3",
        Client::Go => "Go v2",
        Client::Rust => "Rust",
    }
}
