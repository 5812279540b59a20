//! What is read out of the service's and STS's answers.

use super::*;

const ACCOUNT: &str = "123456789012";

#[test]
fn base_takes_account_and_partition_of_the_profile_and_nothing_else() {
    let info =
        |arn: &str| format!(r#"{{"Code":"Success","InstanceProfileArn":"{arn}","InstanceProfileId":"x"}}"#);
    let base = |arn: &str| profile_base(&info(arn)).map(|base| base.as_str().to_owned());
    assert_eq!(
        base("arn:aws:iam::123456789012:instance-profile/kops/kops-custom-node-role").as_deref(),
        Some("arn:aws:iam::123456789012:role/")
    );
    assert_eq!(
        base("arn:aws-cn:iam::123456789012:instance-profile/x").as_deref(),
        Some("arn:aws-cn:iam::123456789012:role/")
    );
    for bad in ["", "arn:aws:iam::1:instance-profile/x", "arn:aws:iam::123456789012:role/x", "arn:x"] {
        assert_eq!(base(bad), None, "{bad}");
    }
    assert_eq!(profile_base(r#"{"Code":"InstanceProfileNotFound","Message":"x"}"#), None);
    assert_eq!(profile_base("not json"), None);
}

#[test]
fn listed_role_is_the_first_line() {
    assert_eq!(role_name("corp-node\n").as_deref(), Some("corp-node"));
    assert_eq!(role_name("a\nb").as_deref(), Some("a"));
    for bad in ["", "\n", "<html>", "a b", &"a".repeat(65)] {
        assert_eq!(role_name(bad), None, "{bad}");
    }
}

#[test]
fn region_is_read_from_zones_of_every_kind() {
    for (zone, region) in [
        ("eu-central-1a", "eu-central-1"),
        ("us-gov-west-1b\n", "us-gov-west-1"),
        ("us-west-2-lax-1a", "us-west-2"),
        ("us-east-1-wl1-bos-wlz-1", "us-east-1"),
        ("ap-southeast-10c", "ap-southeast-10"),
    ] {
        assert_eq!(region_of_zone(zone).as_deref(), Some(region));
    }
    assert_eq!(region_of_zone("nowhere"), None);
    assert_eq!(
        region_of_document(r#"{"region":"eu-central-1","version":"x"}"#).as_deref(),
        Some("eu-central-1")
    );
    for bad in ["", "evil.example/", "EU-CENTRAL-1", "-x", "<html>"] {
        assert_eq!(region_name(bad), None, "{bad}");
    }
}

#[test]
fn own_role_has_the_names_of_both_witnesses() {
    let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/corp-node/i-0123456789abcdef0");
    let both = own_role(Some("corp-node"), Some(&arn), Some(ACCOUNT));
    assert_eq!(both.names, ["corp-node"]);
    assert_eq!(both.account.as_deref(), Some(ACCOUNT));
    assert_eq!(both.arn.as_deref(), Some("arn:aws:iam::123456789012:role/corp-node"));

    assert_eq!(own_role(Some("Corp-Node"), Some(&arn), None).names, ["Corp-Node"]);
    assert_eq!(own_role(Some("other"), Some(&arn), None).names, ["other", "corp-node"]);
    assert_eq!(own_role(None, Some(&arn), None).account.as_deref(), Some(ACCOUNT));
    assert_eq!(own_role(Some("corp-node"), None, Some(ACCOUNT)).account.as_deref(), Some(ACCOUNT));
    assert_eq!(own_role(None, None, None), OwnRole::default());
}

#[test]
fn caller_of_another_account_makes_the_name_alone_tell() {
    let arn = "arn:aws:sts::999999999999:assumed-role/agent/x";
    let own = own_role(Some("corp-node"), Some(arn), Some(ACCOUNT));
    assert_eq!((own.account, own.names), (None, vec!["corp-node".to_owned(), "agent".to_owned()]));
}

#[test]
fn callers_that_are_no_role_add_no_name() {
    for resource in
        ["iam::123456789012:user/someone", "iam::123456789012:root", "sts::123456789012:federated-user/x"]
    {
        let own = own_role(Some("corp-node"), Some(&format!("arn:aws:{resource}")), None);
        assert_eq!(own.names, ["corp-node"], "{resource}");
        assert_eq!(own.account.as_deref(), Some(ACCOUNT), "{resource}");
    }
    let path = own_role(None, Some("arn:aws:iam::123456789012:role/kops/corp-node"), None);
    assert_eq!(path.names, ["corp-node"]);
    assert_eq!(path.arn.as_deref(), Some("arn:aws:iam::123456789012:role/kops/corp-node"));
    for garbage in ["", "arn", "arn:aws:sts::1:assumed-role/x/y", "arn:aws:sts::123456789012:assumed-role//y"]
    {
        let own = own_role(None, Some(garbage), None);
        assert_eq!((own.names.len(), own.arn), (0, None), "{garbage}");
    }
}
