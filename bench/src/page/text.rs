//! Numbers and texts as they stand on a page or in a table: grouped, rounded to what was measured, escaped.

use std::fmt::Write;

/// `text` as HTML content or a quoted attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What no document may hold.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A figure with about three significant digits, thousands apart.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".into(),
        0.0 => "0".into(),
        size if size >= 99.95 => grouped(value),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// [`number`] without zeros behind the point: a tick of an axis, or a bound as somebody has written it.
pub(crate) fn round(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// [`number`], or a dash for what was not measured.
pub(crate) fn number_or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

/// A count, thousands apart.
pub(crate) fn count(value: u64) -> String {
    grouped(value as f64)
}

/// A rate a second as mails an hour, in words.
pub(crate) fn an_hour(per_second: f64) -> String {
    let hour = per_second * 3_600.0;
    match hour {
        _ if !hour.is_finite() => "–".into(),
        _ if hour >= 1e6 => format!("{} million an hour", number(hour / 1e6)),
        _ => format!("{} an hour", number(hour)),
    }
}

/// Octets with their unit.
pub(crate) fn octets(value: f64) -> String {
    match value {
        _ if value >= 1024.0 * 1024.0 => format!("{} MiB", number(value / 1024.0 / 1024.0)),
        _ if value >= 1024.0 => format!("{} KiB", number(value / 1024.0)),
        _ => format!("{} B", number(value)),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    if value < 0.0 && digits != "0" {
        out.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Appends to a page; writing to a String does not fail.
pub(crate) fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escaped("<script>alert('a\"&b')</script>\u{0}"), {
            "&lt;script&gt;alert(&#39;a&quot;&amp;b&#39;)&lt;/script&gt;\u{fffd}"
        });
    }

    #[test]
    fn figures_have_three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.0123, "0.012"),
            (0.5, "0.50"),
            (7.0, "7.00"),
            (9.994, "9.99"),
            (10.04, "10.0"),
            (99.94, "99.9"),
            (99.96, "100"),
            (1_234_567.8, "1,234,568"),
            (-1_500.0, "-1,500"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!((round(7.0), round(0.5), round(300.0)), ("7".into(), "0.5".into(), "300".into()));
        assert_eq!(an_hour(2_778.0), "10.0 million an hour");
        assert_eq!(octets(20_480.0), "20.0 KiB");
    }
}
