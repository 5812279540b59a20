//! Texts put together to be looked at, without memory of their own where they are short.

/// Longer ones are rare: names of roles and sessions have 64 characters at most, prefixes of ARNs some 30.
const ROOM_BYTES: usize = 256;

/// What `look` makes of all pieces in a row.
pub(crate) fn with_joined<'a, T>(
    pieces: impl Iterator<Item = &'a str> + Clone,
    look: impl FnOnce(&str) -> T,
) -> T {
    let mut room = [0; ROOM_BYTES];
    let mut length = 0;
    for piece in pieces.clone() {
        let end = length + piece.len();
        match room.get_mut(length..end) {
            Some(place) => place.copy_from_slice(piece.as_bytes()),
            None => return look(&pieces.collect::<String>()),
        }
        length = end;
    }
    // Whole texts in a row are text.
    match std::str::from_utf8(&room[..length]) {
        Ok(text) => look(text),
        Err(_) => look(&pieces.collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_a_row_however_long_they_are() {
        for n in [0, 1, 127, 128, 129, 5_000] {
            let long = "\u{e9}".repeat(n);
            let pieces = ["a", &long, "", "b"];
            with_joined(pieces.into_iter(), |text| assert_eq!(text, format!("a{long}b")));
        }
    }
}
