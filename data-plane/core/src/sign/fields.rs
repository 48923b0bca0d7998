//! The fields of a header section as slices, for signing and re-encoding. CRLF line ends are given.

/// One field as it stands, folded lines and final CRLF included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// Before the colon, without white space.
    pub(super) name: &'a [u8],
    /// After the colon, with the final CRLF.
    pub(super) value: &'a [u8],
    pub(super) raw: &'a [u8],
}

impl Field<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of `header` up to its empty line. A line without a colon is a field without a value, named by all of it.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() || rest.starts_with(b"\r\n") {
            return None;
        }
        let (raw, after) = rest.split_at(field_end(rest));
        rest = after;
        let colon = memchr::memchr(b':', raw).unwrap_or(raw.len());
        let name = raw[..colon].trim_ascii();
        Some(Field { name, value: raw.get(colon + 1..).unwrap_or_default(), raw })
    })
}

/// Just after the first CRLF that no white space follows.
fn field_end(bytes: &[u8]) -> usize {
    for at in memchr::memchr_iter(b'\n', bytes) {
        if !matches!(bytes.get(at + 1), Some(b' ' | b'\t')) {
            return at + 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_folds() {
        let header = b"A: 1\r\nB :2\r\n\t3\r\nodd\r\n\r\nC: 4\r\n";
        let seen: Vec<_> = fields(header).map(|field| (field.name, field.value, field.raw.len())).collect();
        assert_eq!(seen, [(&b"A"[..], &b" 1\r\n"[..], 6), (b"B", b"2\r\n\t3\r\n", 10), (b"odd", b"", 5)]);
    }

    #[test]
    fn a_section_may_end_anywhere() {
        for header in [&b""[..], b"\r\n", b"A", b"A:", b"A: b", b"A: b\r\n", b"A: b\r\n "] {
            assert!(fields(header).count() <= 1, "{header:?}");
        }
    }
}
