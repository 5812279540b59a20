//! Any annotation either is no role, or is one whose parts make up the whole again, in an account of 12 digits;
//! a name without an account of its own never leaves the base's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rolegate::types::{RoleArn, RoleArnBase};

fuzz_target!(|text: &str| {
    let Ok(base) = RoleArnBase::of_account("aws", "123456789012") else { panic!("a valid base") };
    if let Ok(role) = RoleArn::resolve(text, Some(&base)) {
        assert_eq!(RoleArn::parse(role.as_str()), Ok(role.clone()));
        let whole = format!("arn:{}:iam::{}:role/{}", role.partition(), role.account(), role.path_and_name());
        assert_eq!(role.as_str(), whole);
        assert!(role.path_and_name().ends_with(role.name()));
        assert!(!role.name().is_empty() && !role.name().contains(['/', ':', '\n', '%']));
        assert!(role.account().len() == 12 && role.account().bytes().all(|b| b.is_ascii_digit()));
        if !text.starts_with("arn:") {
            assert_eq!((role.partition(), role.account()), (base.partition(), base.account()));
        }
    }
    if let Ok(base) = RoleArnBase::parse(text) {
        assert!(RoleArn::resolve("a-role", Some(&base)).is_ok_and(|role| role.account() == base.account()));
    }
});
