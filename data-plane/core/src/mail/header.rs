//! The header section of a message, read in place (RFC 5322 section 2.2, RFC 6532).
//!
//! ```text
//! Name: value CRLF
//! Name: value CRLF WSP folded CRLF
//! CRLF                               the empty line belongs to the section
//! ```
//!
//! Invariants worth naming: nothing is copied; the ranges of the fields cover the section without a gap, up to its empty
//! line; at most `HEADER_BYTES_MAX` octets and `HEADER_FIELDS_MAX` fields are looked at.
//!
//! Deliberately absent: the structure of values (see `mailboxes`) and white space before the colon, which RFC 5322 keeps
//! for reading old mail only.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;
use postrail_schema::limits::{HEADER_BYTES_MAX, HEADER_FIELDS_MAX};

/// One field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Visible ASCII without a colon.
    pub name: &'a str,
    /// What follows the colon, with folds, without the final CRLF.
    pub value: &'a [u8],
    /// The whole field with its final CRLF, as a range of the section.
    pub range: Range<usize>,
}

impl<'a> Field<'a> {
    /// Whether the field has this name, in any letter case.
    pub const fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value unfolded (RFC 5322 2.2.3) and trimmed; octets that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> Cow<'a, str> {
        let trimmed = self.value.trim_ascii();
        if memchr::memchr2(b'\r', b'\n', trimmed).is_none() {
            return String::from_utf8_lossy(trimmed);
        }
        let unfolded: Vec<u8> = trimmed.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
        Cow::Owned(String::from_utf8_lossy(&unfolded).into_owned())
    }
}

/// Why octets are not a header section.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("the header section is longer than {HEADER_BYTES_MAX} octets")]
    TooLong,
    #[error("the header section has more than {HEADER_FIELDS_MAX} fields")]
    TooManyFields,
    /// The line at this number, from 1, is neither a field nor the continuation of one.
    #[error("line {0} of the header section is not a field of the form Name: value")]
    Line(usize),
}

/// Parts content into its header section, with the empty line, and its body. Content without an empty line is all header
/// section.
pub fn split(content: &[u8]) -> (&[u8], &[u8]) {
    if content.starts_with(b"\r\n") {
        return content.split_at(2);
    }
    match memmem::find(content, b"\r\n\r\n") {
        Some(at) => content.split_at(at + 4),
        None => (content, &[]),
    }
}

/// The fields of a header section up to its empty line or its end. After an error there is no further item.
pub fn fields(section: &[u8]) -> Fields<'_> {
    Fields { section, at: 0, line: 1, fields: 0 }
}

/// Walks over a section; made by [`fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    section: &'a [u8],
    at: usize,
    line: usize,
    fields: usize,
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<Field<'a>, HeaderError> {
        if self.section.len() > HEADER_BYTES_MAX {
            return Err(HeaderError::TooLong);
        }
        if self.fields == HEADER_FIELDS_MAX {
            return Err(HeaderError::TooManyFields);
        }
        let rest = &self.section[self.at..];
        let name_bytes =
            rest.iter().position(|octet| !matches!(octet, b'!'..=b'9' | b';'..=b'~')).unwrap_or(rest.len());
        if name_bytes == 0 || rest.get(name_bytes) != Some(&b':') {
            return Err(HeaderError::Line(self.line));
        }
        let name = std::str::from_utf8(&rest[..name_bytes]).map_err(|_| HeaderError::Line(self.line))?;
        let (end, lines) = field_end(rest);
        let raw = &rest[name_bytes + 1..end];
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let value = raw.strip_suffix(b"\r").unwrap_or(raw);
        let field = Field { name, value, range: self.at..self.at + end };
        self.at += end;
        self.line += lines;
        self.fields += 1;
        Ok(field)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.section[self.at..];
        if rest.is_empty() || rest.starts_with(b"\r\n") {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.section.len();
        }
        Some(field)
    }
}

/// Where the first field of `rest` ends: after the first line end that no white space follows; and its lines.
fn field_end(rest: &[u8]) -> (usize, usize) {
    let mut lines = 0;
    for at in memchr::memchr_iter(b'\n', rest) {
        lines += 1;
        if !matches!(rest.get(at + 1), Some(b' ' | b'\t')) {
            return (at + 1, lines);
        }
    }
    (rest.len(), lines + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first<'a>(section: &'a [u8], name: &str) -> Option<Field<'a>> {
        fields(section).map_while(Result::ok).find(|field| field.is(name))
    }

    fn count(section: &[u8], name: &str) -> Result<usize, HeaderError> {
        fields(section).try_fold(0, |count, field| Ok(count + usize::from(field?.is(name))))
    }

    #[test]
    fn content_is_parted_at_its_first_empty_line() {
        for (content, header, body) in [
            ("A: b\r\n\r\nx\r\n\r\ny", "A: b\r\n\r\n", "x\r\n\r\ny"),
            ("\r\nx\r\n", "\r\n", "x\r\n"),
            ("A: b\r\n", "A: b\r\n", ""),
            ("", "", ""),
        ] {
            assert_eq!(split(content.as_bytes()), (header.as_bytes(), body.as_bytes()), "{content:?}");
        }
    }

    #[test]
    fn fields_have_names_values_and_ranges() {
        let section = b"From: a\r\nSubject: b\r\n\t c\r\nX:\r\nfrom: d\r\n\r\n";
        let read: Vec<_> = fields(section).map(Result::unwrap).collect();
        let names: Vec<_> = read.iter().map(|field| (field.name, field.text().into_owned())).collect();
        assert_eq!(
            names,
            [("From", "a".to_owned()), ("Subject", "b\t c".to_owned()), ("X", String::new()), ("from", "d".to_owned())]
        );
        assert_eq!(&section[read[1].range.clone()], b"Subject: b\r\n\t c\r\n");
        assert_eq!(read[1].value, b" b\r\n\t c");
        assert_eq!(first(section, "FROM").unwrap().range, 0..9);
        assert_eq!(count(section, "From"), Ok(2));
        assert_eq!(first(section, "To"), None);
    }

    #[test]
    fn lines_that_are_no_fields_are_named() {
        for (section, line) in [
            ("no field\r\n", 1),
            (" folded\r\n", 1),
            (": x\r\n", 1),
            ("A: b\r\n c\r\nD : e\r\n", 3),
            ("A: b\r\n\u{fc}: c\r\n", 2),
            ("A: b\r\nC", 2),
        ] {
            assert_eq!(count(section.as_bytes(), "X"), Err(HeaderError::Line(line)), "{section:?}");
        }
    }

    #[test]
    fn large_sections_are_refused() {
        let many = "A: b\r\n".repeat(HEADER_FIELDS_MAX);
        assert_eq!(count(many.as_bytes(), "A"), Ok(HEADER_FIELDS_MAX));
        assert_eq!(count(format!("{many}A: b\r\n").as_bytes(), "A"), Err(HeaderError::TooManyFields));
        let long = format!("A: b\r\n{}", " x\r\n".repeat(HEADER_BYTES_MAX / 4));
        assert_eq!(count(long.as_bytes(), "A"), Err(HeaderError::TooLong));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic_or_a_gap(content: Vec<u8>, text in "[A-C:\\s\r\n]{0,80}") {
            for content in [content.as_slice(), text.as_bytes()] {
                let (header, body) = split(content);
                prop_assert_eq!(header.len() + body.len(), content.len());
                let mut at = 0;
                for field in fields(header).map_while(Result::ok) {
                    prop_assert_eq!(field.range.start, at);
                    at = field.range.end;
                }
                prop_assert!(at <= header.len());
            }
        }
    }
}
