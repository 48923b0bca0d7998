//! What a receiver offers in its reply to EHLO (RFC 5321 4.1.1.1): the keywords that egress makes use of.
//!
//! Deliberately absent: AUTH.

use super::super::Reply;

/// The offered extensions that matter to us. After HELO: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030: BDAT may be sent.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtp_utf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 1870: SIZE= may be sent.
    pub size: bool,
    /// RFC 1870: the largest message taken, octets; `None`: not told.
    pub size_max: Option<u64>,
    /// RFC 2034.
    pub enhanced_status: bool,
    /// RFC 3207.
    pub start_tls: bool,
}

impl Extensions {
    /// Reads the keywords of a 250 to EHLO: one a line, after the line with the receiver's name. What is not known or
    /// not well-formed is skipped.
    pub fn from_reply(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.text.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            let is = |name: &str| keyword.eq_ignore_ascii_case(name);
            if is("PIPELINING") {
                found.pipelining = true;
            } else if is("CHUNKING") {
                found.chunking = true;
            } else if is("8BITMIME") {
                found.eight_bit_mime = true;
            } else if is("SMTPUTF8") {
                found.smtp_utf8 = true;
            } else if is("DSN") {
                found.dsn = true;
            } else if is("SIZE") {
                found.size = true;
                // 0 says that there is no fixed maximum (RFC 1870 section 4).
                found.size_max = words.next().and_then(|max| max.parse().ok()).filter(|max| *max > 0);
            } else if is("ENHANCEDSTATUSCODES") {
                found.enhanced_status = true;
            } else if is("STARTTLS") {
                found.start_tls = true;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case_and_the_rest_is_skipped() {
        let text =
            "mx.example DSN\npipelining\n8BitMime\nSIZE 1000\nCHUNKING\nX-OTHER y\n\nAUTH PLAIN\nSMTPUTF8\nSTARTTLS";
        let found = Extensions::from_reply(&Reply::plain(250, text));
        let wanted = Extensions {
            pipelining: true,
            chunking: true,
            eight_bit_mime: true,
            smtp_utf8: true,
            size: true,
            size_max: Some(1_000),
            start_tls: true,
            ..Extensions::default()
        };
        assert_eq!(found, wanted, "DSN stands in the line of the name and is none");
    }

    #[test]
    fn a_size_without_a_number_sets_no_maximum() {
        for line in ["SIZE", "SIZE 0", "SIZE big", "SIZE 99999999999999999999999"] {
            let found = Extensions::from_reply(&Reply::plain(250, format!("mx\n{line}")));
            assert!(found.size && found.size_max.is_none(), "{line}");
        }
    }
}
