//! A time as text: `2026-08-21T15:20:33Z`, without the formatting machinery, which takes longer than an answer's header.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// A time in whole seconds, UTC; what is out of range is the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc([u8; 20]);

// === impl Utc ===

impl Utc {
    /// The second that `at` is in: fractions are cut off.
    #[must_use]
    pub fn new(at: SystemTime) -> Self {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let at = i64::try_from(seconds).ok();
        let at = at.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut text = *b"0000-00-00T00:00:00Z";
        let year = u32::try_from(at.year()).unwrap_or_default();
        for (end, number) in [
            (4, year),
            (7, u32::from(u8::from(at.month()))),
            (10, u32::from(at.day())),
            (13, u32::from(at.hour())),
            (16, u32::from(at.minute())),
            (19, u32::from(at.second())),
        ] {
            write_digits(&mut text[..end], number);
        }
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `number` in decimal, at the end of `room`, over zeros. What does not fit is cut off.
pub(crate) fn write_digits(room: &mut [u8], mut number: u32) {
    for digit in room.iter_mut().rev() {
        if number == 0 {
            return;
        }
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_to_the_second_and_one_out_of_range_is_the_epoch() {
        let text =
            |seconds: u64| Utc::new(UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 999)).to_string();
        assert_eq!(text(1_787_325_633), "2026-08-21T15:20:33Z");
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(text(1 << 50), "1970-01-01T00:00:00Z");
        assert_eq!(Utc::new(UNIX_EPOCH - Duration::from_secs(1)).as_str(), "1970-01-01T00:00:00Z");
    }
}
