//! The addresses of a From field (RFC 5322 3.4): strict, since receivers must not read another author than we checked.
//!
//! Taken: `addr-spec`, `phrase <addr-spec>`, comments, quoted strings, lists by comma. Refused: groups, routes, a phrase
//! that holds an address other than the one in angle brackets, and whatever else two readers could read apart.

use super::{Address, AddressError};

/// Why a value is not a list of mailboxes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MailboxError {
    #[error("a mailbox is empty")]
    Empty,
    #[error("a comment, quoted string or angle bracket is not closed, or stands where none may")]
    Bracket,
    #[error("a group is not taken here")]
    Group,
    #[error("the display name holds an address of its own")]
    AddressInPhrase,
    #[error("more than {MAILBOXES_MAX} mailboxes")]
    TooMany,
    #[error("the value is not UTF-8 or holds control characters")]
    Encoding,
    #[error("{0}")]
    Address(#[from] AddressError),
}

/// The addresses in an unfolded value, in order; at least one.
///
/// # Errors
/// The first thing that is not well formed, or could be read in two ways.
pub fn addresses(value: &str) -> Result<Vec<Address>, MailboxError> {
    if value.contains(|c: char| c == char::REPLACEMENT_CHARACTER || (c.is_control() && c != '\t')) {
        return Err(MailboxError::Encoding);
    }
    let mut addresses = Vec::new();
    let mut mailbox = Mailbox::default();
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            ',' if !mailbox.is_in_angle() => {
                addresses.push(std::mem::take(&mut mailbox).finish()?);
                if addresses.len() == MAILBOXES_MAX {
                    return Err(MailboxError::TooMany);
                }
            }
            '(' => {
                skip_comment(&mut rest)?;
                mailbox.push(' ')?;
            }
            '"' => mailbox.quoted(&mut rest)?,
            '<' => mailbox.open()?,
            '>' => mailbox.close()?,
            ')' => return Err(MailboxError::Bracket),
            ':' | ';' if !mailbox.is_in_literal() => return Err(MailboxError::Group),
            c => {
                mailbox.bare_at |= c == '@' && mailbox.inside.is_none();
                mailbox.push(c)?;
            }
        }
    }
    addresses.push(mailbox.finish()?);
    Ok(addresses)
}

/// One mailbox being read.
#[derive(Default)]
struct Mailbox {
    /// Outside angle brackets: the phrase, or the address itself.
    outside: String,
    /// Inside angle brackets.
    inside: Option<String>,
    closed: bool,
    /// Outside angle brackets an `@` stands without quotes.
    bare_at: bool,
}

impl Mailbox {
    const fn is_in_angle(&self) -> bool {
        self.inside.is_some() && !self.closed
    }

    /// Within the square brackets of an address literal, where a colon is no group.
    fn is_in_literal(&self) -> bool {
        let text = self.inside.as_ref().unwrap_or(&self.outside);
        !self.closed && text.rfind('[').is_some_and(|open| text.rfind(']').is_none_or(|close| close < open))
    }

    fn push(&mut self, c: char) -> Result<(), MailboxError> {
        if self.closed {
            return if c == ' ' || c == '\t' { Ok(()) } else { Err(MailboxError::Bracket) };
        }
        self.inside.as_mut().unwrap_or(&mut self.outside).push(c);
        Ok(())
    }

    fn open(&mut self) -> Result<(), MailboxError> {
        if self.inside.is_some() {
            return Err(MailboxError::Bracket);
        }
        self.inside = Some(String::new());
        Ok(())
    }

    const fn close(&mut self) -> Result<(), MailboxError> {
        if !self.is_in_angle() {
            return Err(MailboxError::Bracket);
        }
        self.closed = true;
        Ok(())
    }

    fn quoted(&mut self, rest: &mut std::str::Chars<'_>) -> Result<(), MailboxError> {
        self.push('"')?;
        while let Some(c) = rest.next() {
            self.push(c)?;
            match c {
                '"' => return Ok(()),
                '\\' => self.push(rest.next().ok_or(MailboxError::Bracket)?)?,
                _ => {}
            }
        }
        Err(MailboxError::Bracket)
    }

    fn finish(self) -> Result<Address, MailboxError> {
        let outside = self.outside.trim();
        let Some(inside) = &self.inside else {
            return if outside.is_empty() { Err(MailboxError::Empty) } else { Ok(Address::parse(outside)?) };
        };
        if !self.closed {
            return Err(MailboxError::Bracket);
        }
        let address = Address::parse(inside.trim())?;
        if self.bare_at && !outside.eq_ignore_ascii_case(address.as_str()) {
            return Err(MailboxError::AddressInPhrase);
        }
        Ok(address)
    }
}

/// Skips to the end of a comment whose opening parenthesis was read; comments nest.
fn skip_comment(rest: &mut std::str::Chars<'_>) -> Result<(), MailboxError> {
    let mut depth = 1_usize;
    while let Some(c) = rest.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '\\' if rest.next().is_none() => break,
            _ => {}
        }
        if depth == 0 {
            return Ok(());
        }
    }
    Err(MailboxError::Bracket)
}

/// Mailboxes in one From field.
const MAILBOXES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mailboxes_of_the_standard_are_read() {
        for (value, expected) in [
            ("bob@a.example", &["bob@a.example"][..]),
            (" Bob <bob@a.example> ", &["bob@a.example"]),
            ("\"Bob, B.\" <bob@a.example>, al@b.example", &["bob@a.example", "al@b.example"]),
            ("Bob (it's <me@x.example>, (really)) <bob@a.example>", &["bob@a.example"]),
            ("\"eve@x.example\" <bob@a.example>", &["bob@a.example"]),
            ("bob@a.example <bob@a.example>", &["bob@a.example"]),
            ("=?utf-8?q?B=40b?= <bob@a.example>", &["bob@a.example"]),
            ("\"a b\"@a.example", &["\"a b\"@a.example"]),
            ("bob@[IPv6:2001:db8::1]", &["bob@[IPv6:2001:db8::1]"]),
        ] {
            let read = addresses(value).unwrap_or_else(|error| panic!("{value:?}: {error}"));
            assert_eq!(read.iter().map(Address::as_str).collect::<Vec<_>>(), expected, "{value:?}");
        }
    }

    #[test]
    fn values_that_could_be_read_apart_are_refused() {
        for (value, error) in [
            ("", MailboxError::Empty),
            ("(comment)", MailboxError::Empty),
            ("a@a.example,", MailboxError::Empty),
            ("eve@x.example <bob@a.example>", MailboxError::AddressInPhrase),
            ("\"a\"@x.example \"b\" <bob@a.example>", MailboxError::AddressInPhrase),
            ("<eve@x.example> <bob@a.example>", MailboxError::Bracket),
            ("<bob@a.example> eve", MailboxError::Bracket),
            ("<bob@a.example", MailboxError::Bracket),
            ("bob@a.example>", MailboxError::Bracket),
            ("\"bob <bob@a.example>", MailboxError::Bracket),
            ("bob@a.example (x", MailboxError::Bracket),
            ("bob@a.example)", MailboxError::Bracket),
            ("team: bob@a.example;", MailboxError::Group),
            ("<@x.example:bob@a.example>", MailboxError::Group),
            ("bob@a.example\u{0}", MailboxError::Encoding),
            ("bob@a.exa(x)mple", MailboxError::Address(AddressError::DomainSyntax)),
            ("bob", MailboxError::Address(AddressError::MissingAt)),
            ("Bob bob@a.example", MailboxError::Address(AddressError::LocalPartSyntax)),
        ] {
            assert_eq!(addresses(value), Err(error), "{value:?}");
        }
        assert_eq!(addresses(&"a@b.example,".repeat(20)), Err(MailboxError::TooMany));
    }

    proptest! {
        #[test]
        fn any_value_is_read_without_a_panic(value: String, odd in "[a@.<>,\"()\\\\:; \\[\\]]{0,40}") {
            let _ = addresses(&value);
            if let Ok(read) = addresses(&odd) {
                prop_assert!(!read.is_empty() && read.len() <= MAILBOXES_MAX);
            }
        }
    }
}
