//! The parameters of `MAIL` and `RCPT` (RFC 5321 4.1.2 `esmtp-param`) and xtext (RFC 3461 section 4).
//!
//! Nothing is copied while reading; an empty or malformed word is an error of the whole list.

/// One `KEYWORD` or `KEYWORD=value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter<'a> {
    pub keyword: &'a str,
    pub value: Option<&'a str>,
}

impl Parameter<'_> {
    /// Whether this is the parameter `keyword`, in any letter case.
    pub const fn is(&self, keyword: &str) -> bool {
        self.keyword.eq_ignore_ascii_case(keyword)
    }
}

/// A word that is no parameter by RFC 5321 4.1.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not of the form KEYWORD or KEYWORD=value")]
pub struct InvalidParameter;

/// Reads what follows a path: words parted by spaces. Each item is a parameter or the reason why it is none.
pub fn parameters(text: &str) -> impl Iterator<Item = Result<Parameter<'_>, InvalidParameter>> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        let keyword_is_valid = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
            && keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        // esmtp-value: visible characters but `=`; UTF-8 by RFC 6531 3.4 (`=` itself is left to each parameter).
        let value_is_valid = value.is_none_or(|value| !value.is_empty() && !value.chars().any(char::is_control));
        if keyword_is_valid && value_is_valid { Ok(Parameter { keyword, value }) } else { Err(InvalidParameter) }
    })
}

/// The octets that `text` stands for, or `None` where it is not xtext: visible ASCII but `+` and `=`, and `+XX` with two
/// upper-case hexadecimal digits.
pub fn xtext_decode(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => octets.push(hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?),
            b'!'..=b'~' if byte != b'=' => octets.push(byte),
            _ => return None,
        }
    }
    Some(octets)
}

/// Writes octets as xtext.
pub fn xtext_encode(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(octets.len());
    for &octet in octets {
        if matches!(octet, b'!'..=b'~') && octet != b'+' && octet != b'=' {
            text.push(char::from(octet));
        } else {
            text.push('+');
            text.push(char::from(DIGITS[usize::from(octet >> 4)]));
            text.push(char::from(DIGITS[usize::from(octet & 15)]));
        }
    }
    text
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_read_in_order_with_and_without_values() {
        let read: Result<Vec<_>, _> = parameters(" SIZE=10  smtputf8 ENVID=a+2Bb").collect();
        let read = read.unwrap();
        assert_eq!(read.len(), 3);
        assert!(read[0].is("size") && read[0].value == Some("10"));
        assert!(read[1].is("SMTPUTF8") && read[1].value.is_none());
        assert!(read[2].is("ENVID") && read[2].value == Some("a+2Bb"));
    }

    #[test]
    fn words_that_are_no_parameters_are_refused() {
        for text in ["=x", "SIZE=", "-a=b", "SI_ZE=1", "SIZE=1\u{7}"] {
            assert!(parameters(text).any(|word| word.is_err()), "{text:?}");
        }
    }

    #[test]
    fn text_that_is_not_xtext_is_refused() {
        for text in ["a=b", "a b", "+2", "+", "+2b", "+GG", "ü"] {
            assert_eq!(xtext_decode(text), None, "{text:?}");
        }
        assert_eq!(xtext_decode("rfc822;a+2Bb@example.org"), Some(b"rfc822;a+b@example.org".to_vec()));
    }

    proptest! {
        #[test]
        fn xtext_gives_back_what_was_encoded(octets: Vec<u8>) {
            prop_assert_eq!(xtext_decode(&xtext_encode(&octets)), Some(octets));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = xtext_decode(&text);
            prop_assert!(parameters(&text).count() <= text.len());
        }
    }
}
