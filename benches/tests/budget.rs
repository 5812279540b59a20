//! What a request allocates, held against the budget; instructions are counted by `make budget`.

use std::process::Command;

use rolegate_tests::netns;

#[test]
fn a_request_allocates_no_more_than_its_budget() {
    if let Some(why) = netns::missing() {
        return rolegate_tests::skip("a_request_allocates_no_more_than_its_budget", &why);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_instructions"))
        .args(["--allocations", "--requests=50", "--budget"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/budget.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("within the budget"), "{said}");
}
