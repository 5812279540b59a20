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

/// The field of an event's words.
const MESSAGE: &str = "message";
/// Capacity that is kept after a long line.
const KEPT_BYTES: usize = 4 << 10;

/// Formats events.
#[derive(Debug, Default)]
pub(super) struct Text {
    others: Format,
}

/// Writes fields as they come: ` name=value`, the message without a name.
struct Fields<'a> {
    line: &'a mut String,
    is_first: bool,
    result: fmt::Result,
}

/// Keeps what the bytes of a terminal's commands are from being them.
struct Harmless<'a>(&'a mut String);

thread_local! {
    /// Where lines are put together, kept for the next one.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
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
        let mut line = LINE.take();
        line.clear();
        write_time(&mut line, Clock::system().now());
        line.push_str(level(*metadata.level()));
        line.push_str(metadata.target());
        line.push_str(": ");
        let mut fields = Fields { line: &mut line, is_first: true, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        line.push('\n');
        let written = writer.write_str(&line);
        line.shrink_to(KEPT_BYTES);
        LINE.set(line);
        written
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
fn write_time(line: &mut String, now: SystemTime) {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since_epoch.as_secs();
    let text = match SECOND.get() {
        Some((known, text)) if known == seconds => text,
        _ => Utc::new(now),
    };
    SECOND.set(Some((seconds, text)));
    line.push_str(text.as_str().trim_end_matches('Z'));
    let mut fraction = *b".000000Z";
    write_digits(&mut fraction[1..7], since_epoch.subsec_micros());
    line.push_str(std::str::from_utf8(&fraction).unwrap_or_default());
}

// === impl Fields ===

impl Fields<'_> {
    fn begin(&mut self, name: &str) {
        if !std::mem::replace(&mut self.is_first, false) {
            self.line.push(' ');
        }
        if name != MESSAGE {
            self.line.push_str(name);
            self.line.push('=');
        }
    }
}

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.begin(field.name());
        push_number(self.line, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.record_u64(field, value),
            Err(_) => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\');
        if !is_plain || field.name() == MESSAGE {
            return self.record_debug(field, &value);
        }
        self.begin(field.name());
        self.line.push('"');
        self.line.push_str(value);
        self.line.push('"');
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.begin(field.name());
        let written = if field.name() == MESSAGE {
            write!(Harmless(self.line), "{value:?}")
        } else {
            write!(self.line, "{value:?}")
        };
        self.result = self.result.and(written);
    }
}

/// `write!` would take ten times as long.
fn push_number(line: &mut String, mut number: u64) {
    // Of u64::MAX.
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return line.push_str(std::str::from_utf8(&digits[first..]).unwrap_or_default());
        }
    }
}

// === impl Harmless ===

impl fmt::Write for Harmless<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            self.0.push_str(text);
            return Ok(());
        }
        // As tracing's own format has it.
        for char in text.chars() {
            match char {
                '\x1b' | '\x07' | '\x08' | '\x0c' | '\x7f' => write!(self.0, "\\x{:02x}", u32::from(char))?,
                '\u{80}'..='\u{9f}' => write!(self.0, "\\u{{{:x}}}", u32::from(char))?,
                _ => self.0.push(char),
            }
        }
        Ok(())
    }
}
