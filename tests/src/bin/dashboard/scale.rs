//! Values as Grafana writes them, and where an axis ends.

/// A unit of Grafana's.
pub(crate) enum Unit {
    Seconds,
    Bytes,
    Part,
    PerSecond,
    Plain,
}

// === impl Unit ===

impl Unit {
    /// By Grafana's name of it.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "s" => Self::Seconds,
            "bytes" => Self::Bytes,
            "percentunit" => Self::Part,
            "reqps" => Self::PerSecond,
            _ => Self::Plain,
        }
    }

    /// A value in it.
    pub(crate) fn show(&self, value: f64) -> String {
        match self {
            Self::Seconds if value == 0.0 => "0 s".into(),
            Self::Seconds if value < 1.0 => format!("{} ms", short(value * 1_000.0)),
            Self::Seconds if value < 120.0 => format!("{} s", short(value)),
            Self::Seconds => format!("{} min", short(value / 60.0)),
            Self::Bytes => format!("{} MiB", short(value / 1_048_576.0)),
            Self::Part => format!("{} %", short(value * 100.0)),
            Self::PerSecond => format!("{}/s", short(value)),
            Self::Plain => short(value),
        }
    }

    /// What its steps are multiples of.
    fn base(&self, value: f64) -> f64 {
        match self {
            Self::Seconds if value >= 120.0 => 60.0,
            Self::Bytes => 1_048_576.0,
            _ => 1.0,
        }
    }
}

/// The end of an axis that has four steps and shows `highest`.
pub(crate) fn nice_ceiling(highest: f64, unit: &Unit) -> f64 {
    if highest <= 0.0 {
        return unit.base(0.0);
    }
    let base = unit.base(highest);
    let step = highest / base / 4.0;
    let power = 10.0_f64.powf(step.log10().floor());
    let nice = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|nice| nice * power >= step).unwrap_or(10.0);
    nice * power * 4.0 * base
}

/// Three digits, without zeros at the end.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_have_their_unit() {
        assert_eq!(Unit::of("s").show(0.0123), "12.3 ms");
        assert_eq!(Unit::of("s").show(3_000.0), "50 min");
        assert_eq!(Unit::of("percentunit").show(0.9987), "99.9 %");
        assert_eq!(Unit::of("reqps").show(2.0), "2/s");
        assert_eq!(Unit::of("short").show(0.0), "0");
    }

    #[test]
    fn an_axis_ends_at_a_round_number_above_the_highest_value() {
        assert!((nice_ceiling(7.0, &Unit::Plain) - 8.0).abs() < 1e-9);
        assert!((nice_ceiling(0.9, &Unit::Seconds) - 1.0).abs() < 1e-9);
        assert!((nice_ceiling(3_590.0, &Unit::Seconds) - 4_800.0).abs() < 1e-9);
        assert!((nice_ceiling(0.0, &Unit::Plain) - 1.0).abs() < 1e-9);
    }
}
