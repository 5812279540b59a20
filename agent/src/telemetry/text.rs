//! The text of a request's lines: what tracing's own format writes, for a fraction of its work.
//!
//! Two of three lines are one request's. All others, and all on a terminal, are left to tracing.

use std::cell::Cell;
use std::fmt::{self, Debug, Write as _};
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{ACCESS, AUDIT};
use crate::types::{Clock, Utc, write_digits};

/// Formats events.
#[derive(Debug, Default)]
pub(super) struct Text {
    others: Format,
}

/// Writes fields as they come: ` name=value`, the message without a name.
struct Fields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

/// Keeps what the bytes of a terminal's commands are from being them.
struct Harmless<'a, 'w>(&'a mut Writer<'w>);

thread_local! {
    /// The last second that was written on this thread, since the epoch.
    static SECOND: Cell<Option<(u64, Utc)>> = const { Cell::new(None) };
}

// === impl Text ===

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if writer.has_ansi_escapes() || ![ACCESS, AUDIT].contains(&metadata.target()) {
            return self.others.format_event(context, writer, event);
        }
        write_time(&mut writer, Clock::system().now())?;
        writer.write_str(level(*metadata.level()))?;
        writer.write_str(metadata.target())?;
        writer.write_str(": ")?;
        let mut fields = Fields { writer: &mut writer, is_first: true, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        writer.write_char('\n')
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => " ERROR ",
        Level::WARN => "  WARN ",
        Level::INFO => "  INFO ",
        Level::DEBUG => " DEBUG ",
        Level::TRACE => " TRACE ",
    }
}

/// Microseconds, UTC.
fn write_time(writer: &mut Writer<'_>, now: SystemTime) -> fmt::Result {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since_epoch.as_secs();
    let text = match SECOND.get() {
        Some((known, text)) if known == seconds => text,
        _ => Utc::new(now),
    };
    SECOND.set(Some((seconds, text)));
    writer.write_str(text.as_str().trim_end_matches('Z'))?;
    let mut fraction = *b".000000Z";
    write_digits(&mut fraction[1..7], since_epoch.subsec_micros());
    writer.write_str(std::str::from_utf8(&fraction).unwrap_or_default())
}

// === impl Fields ===

impl Fields<'_, '_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        let name = field.name();
        let is_first = std::mem::replace(&mut self.is_first, false);
        self.result = (|| {
            if !is_first {
                self.writer.write_char(' ')?;
            }
            if name != "message" {
                self.writer.write_str(name)?;
                self.writer.write_char('=')?;
            }
            value(self.writer)
        })();
    }
}

impl Visit for Fields<'_, '_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, |writer| write_number(writer, value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.record_u64(field, value),
            Err(_) => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\');
        if !is_plain || field.name() == "message" {
            return self.record_debug(field, &value);
        }
        self.write(field, |writer| {
            writer.write_char('"')?;
            writer.write_str(value)?;
            writer.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let is_message = field.name() == "message";
        self.write(field, |writer| {
            if is_message { write!(Harmless(writer), "{value:?}") } else { write!(writer, "{value:?}") }
        });
    }
}

/// `write!` would take ten times as long.
fn write_number(writer: &mut Writer<'_>, mut number: u64) -> fmt::Result {
    // Of u64::MAX.
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return writer.write_str(std::str::from_utf8(&digits[first..]).unwrap_or_default());
        }
    }
}

// === impl Harmless ===

impl fmt::Write for Harmless<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.0.write_str(text);
        }
        // As tracing's own format has it.
        for char in text.chars() {
            match char {
                '\x1b' | '\x07' | '\x08' | '\x0c' | '\x7f' => write!(self.0, "\\x{:02x}", u32::from(char))?,
                '\u{80}'..='\u{9f}' => write!(self.0, "\\u{{{:x}}}", u32::from(char))?,
                _ => self.0.write_char(char)?,
            }
        }
        Ok(())
    }
}
