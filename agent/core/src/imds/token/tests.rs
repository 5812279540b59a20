//! Tokens: what is good, and everything that is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;

fn key() -> TokenKey {
    TokenKey::from_bytes(&[7; KEY_BYTES])
}

fn ip(text: &str) -> PodIp {
    text.parse().unwrap()
}

#[test]
fn token_is_56_characters_and_good_for_its_ttl() {
    let token = key().issue(ip("100.96.1.5"), 300, NOW);
    assert_eq!(token.len(), TOKEN_CHARS);
    assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
    let left = |now| key().verify(token.as_bytes(), ip("100.96.1.5"), now);
    assert_eq!(left(NOW), Ok(300));
    assert_eq!(left(NOW + 299), Ok(1));
    assert_eq!(left(NOW + 300), Err(TokenError::Expired));
    assert_eq!(left(u64::MAX), Err(TokenError::Expired));
}

#[test]
fn token_of_another_address_or_node_is_foreign() {
    let token = key().issue(ip("100.96.1.5"), 300, NOW);
    assert_eq!(key().verify(token.as_bytes(), ip("100.96.1.6"), NOW), Err(TokenError::Foreign));
    assert_eq!(key().verify(token.as_bytes(), ip("fd00::5"), NOW), Err(TokenError::Foreign));
    let other = TokenKey::from_bytes(&[8; KEY_BYTES]);
    assert_eq!(other.verify(token.as_bytes(), ip("100.96.1.5"), NOW), Err(TokenError::Foreign));
    assert_eq!(key().verify(token.as_bytes(), ip("::ffff:100.96.1.5"), NOW), Ok(300));
}

#[test]
fn a_clock_set_back_lends_no_more_than_the_longest_ttl() {
    let token = key().issue(ip("100.96.1.5"), LONGEST_TTL_SECONDS, NOW);
    let left = |now| key().verify(token.as_bytes(), ip("100.96.1.5"), now);
    assert_eq!(left(NOW - 3_600), Ok(LONGEST_TTL_SECONDS));
    assert_eq!(left(0), Ok(LONGEST_TTL_SECONDS));
}

#[test]
fn what_is_not_a_token_is_malformed() {
    let token = key().issue(ip("100.96.1.5"), 300, NOW);
    let shorter = &token[1..];
    let longer = format!("{token}A");
    let padded = format!("{shorter}=");
    for bad in ["", "INVALID", shorter, &longer, &padded, &format!("{shorter} "), &format!("{shorter}+")] {
        assert_eq!(key().verify(bad.as_bytes(), ip("100.96.1.5"), NOW), Err(TokenError::Malformed), "{bad}");
    }
    assert_eq!(key().verify(&[0xff; TOKEN_CHARS], ip("100.96.1.5"), NOW), Err(TokenError::Malformed));
}

#[test]
fn ttl_is_one_number_from_1_to_21600() {
    let one = |value: &str| parse_ttl([value.as_bytes()]);
    for (text, ttl) in [("1", 1), ("300", 300), ("21600", 21_600), ("00600", 600)] {
        assert_eq!(one(text), Ok(ttl));
    }
    for bad in
        ["", "0", "21601", "99999", "100000", "-1", "+1", "1.0", " 1", "1 ", "abc", "0x10", "1,2", "\u{661}"]
    {
        assert_eq!(one(bad), Err(BadTtl), "{bad:?}");
    }
    assert_eq!(parse_ttl([]), Err(BadTtl));
    assert_eq!(parse_ttl([&b"60"[..], b"60"]), Err(BadTtl));
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", key()), "TokenKey(redacted)");
}

fn load(dir: &Path) -> (TokenKey, Option<String>) {
    let (key, warning) = TokenKey::load_or_create(dir);
    (key, warning.map(|warning| warning.to_string()))
}

fn same(left: &TokenKey, right: &TokenKey) -> bool {
    let token = left.issue(ip("10.0.0.1"), 60, NOW);
    right.verify(token.as_bytes(), ip("10.0.0.1"), NOW).is_ok()
}

fn key_path(dir: &Path) -> std::path::PathBuf {
    dir.join("imds-token.key")
}

#[test]
fn token_issued_before_a_restart_is_good_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("made/if/missing");
    let (before, warning) = load(&state);
    assert_eq!(warning, None);
    let (after, warning) = load(&state);
    assert_eq!(warning, None);
    assert!(same(&before, &after));
    assert_eq!(fs::metadata(key_path(&state)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside the key");
}

#[test]
fn processes_that_start_together_share_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<TokenKey> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| load(dir.path()))).collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .map(|(key, warning)| {
                assert_eq!(warning, None);
                key
            })
            .collect()
    });
    assert!(keys.iter().all(|key| same(key, &keys[0])));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the key");
}

#[test]
fn damaged_key_is_replaced_with_a_warning_once() {
    for damage in [&b""[..], b"short", &[1; 33], &[0; KEY_BYTES], &[0xff; KEY_BYTES]] {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = load(dir.path());
        fs::write(key_path(dir.path()), damage).unwrap();
        let (second, warning) = load(dir.path());
        assert!(warning.unwrap().contains("damaged"));
        assert!(!same(&first, &second));
        let (third, warning) = load(dir.path());
        assert_eq!(warning, None);
        assert!(same(&second, &third));
    }
}

#[test]
fn key_that_others_could_read_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = load(dir.path());
    fs::set_permissions(key_path(dir.path()), Permissions::from_mode(0o644)).unwrap();
    let (second, warning) = load(dir.path());
    assert!(warning.unwrap().contains("mode 644"));
    assert!(!same(&first, &second));
}

/// Each stands where the key belongs.
#[test]
fn what_is_no_plain_file_is_replaced_and_never_followed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (theirs, _) = load(elsewhere.path());
    let target = key_path(elsewhere.path());
    let before = fs::read(&target).unwrap();
    type Put<'p> = &'p dyn Fn(&Path);
    let puts: [(&str, Put<'_>); 3] = [
        ("a link to a good key", &|path| std::os::unix::fs::symlink(&target, path).unwrap()),
        ("a link to nothing", &|path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
        ("a pipe", &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap()),
    ];
    for (what, put) in puts {
        let dir = tempfile::tempdir().unwrap();
        put(&key_path(dir.path()));
        let (key, warning) = load(dir.path());
        assert!(warning.is_some_and(|text| text.contains("damaged")), "{what}");
        assert!(!same(&key, &theirs), "{what}");
        let (again, warning) = load(dir.path());
        assert_eq!((same(&key, &again), warning), (true, None), "{what}");
        assert!(fs::symlink_metadata(key_path(dir.path())).unwrap().is_file(), "{what}");
    }
    assert_eq!(fs::read(&target).unwrap(), before, "nothing was written through the link");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn directory_in_the_keys_place_leaves_it_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(key_path(dir.path())).unwrap();
    for _ in 0..2 {
        assert!(load(dir.path()).1.unwrap().contains("cannot be kept"));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn what_a_killed_process_left_unfinished_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let left = [".0123456789abcdef", ".ffffffffffffffff"].map(|end| format!("imds-token.key{end}"));
    let other =
        ["imds-token.key.bak", "imds-token.key.0123456789abcdeg", "0123456789abcdef"].map(str::to_owned);
    for name in left.iter().chain(&other) {
        fs::write(dir.path().join(name), b"half").unwrap();
    }
    // With a key to be made, and with one that is there.
    let (made, _) = load(dir.path());
    fs::write(dir.path().join(&left[0]), b"half").unwrap();
    let (found, warning) = load(dir.path());
    assert_eq!((same(&made, &found), warning), (true, None));
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut wanted: Vec<String> = other.into_iter().chain(["imds-token.key".to_owned()]).collect();
    wanted.sort();
    assert_eq!(names, wanted);
}

#[test]
fn unwritable_directory_leaves_the_key_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let not_a_directory = dir.path().join("file");
    fs::write(&not_a_directory, b"").unwrap();
    let (first, warning) = load(&not_a_directory);
    assert!(warning.unwrap().contains("cannot be kept"));
    let (second, _) = load(&not_a_directory);
    assert!(!same(&first, &second), "two keys in memory are two keys");
}

proptest! {
    #[test]
    fn no_changed_token_is_good(at in 0_usize..TOKEN_CHARS, to in "[A-Za-z0-9_-]", ttl in 1_u32..=21_600) {
        let mut token = key().issue(ip("100.96.1.5"), ttl, NOW).into_bytes();
        prop_assume!(token[at] != to.as_bytes()[0]);
        token[at] = to.as_bytes()[0];
        prop_assert_eq!(key().verify(&token, ip("100.96.1.5"), NOW), Err(TokenError::Foreign));
    }

    #[test]
    fn no_bytes_make_it_panic_or_pass(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(key().verify(&bytes, ip("100.96.1.5"), NOW).is_err());
    }
}

#[test]
fn end_of_a_token_is_read_without_its_key_and_only_from_tokens_of_this_form() {
    let token = key().issue(ip("10.0.0.1"), 300, NOW);
    assert_eq!(expiry(token.as_bytes()), Some(NOW + 300));
    let other_version = URL_SAFE_NO_PAD.encode([2; TOKEN_BYTES]);
    for text in ["", "AQAEAABBCCDD==", &token[1..], &format!("{token}A"), &other_version] {
        assert_eq!(expiry(text.as_bytes()), None, "{text}");
    }
}
