//! The guards stand before the first start: nobody gets the node's credentials although no agent has ever run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rolegate_tests::agent::run_to_end;
use rolegate_tests::siege::{Capture, Siege};
use rolegate_tests::traffic::Got;

/// P2, P8: on a node with the boot guard, under every capture that comes afterwards.
#[test]
fn node_is_closed_by_the_guards_before_the_agent_has_ever_run() {
    for capture in Capture::ALL {
        let test = "node_is_closed_by_the_guards_before_the_agent_has_ever_run";
        let Some(mut siege) = Siege::for_test(test, capture) else { return };
        let guard = |args: &[&str]| run_to_end(Some(siege.world.topology.node()), args).unwrap();
        let said = guard(&["guard"]);
        assert!(said.status.success(), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stdout).contains("the guards stand now"), "{said:?}");
        let again = guard(&["guard", "--output=json"]);
        assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), r#"{"errors":[],"mended":[]}"#);
        siege.seal().unwrap();
        siege.everybody_gets(5, |got| got == Got::Nothing).unwrap();
        siege.host_reaches_the_real_service().unwrap();
        siege.nothing_leaked().unwrap();

        let _agent = siege.agent(&[]).unwrap();
        siege.everybody_gets(5, |got| matches!(got, Got::Status(_))).unwrap();
        siege.host_reaches_the_real_service().unwrap();
        siege.nothing_leaked().unwrap();
    }
}
