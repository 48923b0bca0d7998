//! Commands of a client (RFC 5321 4.1.1 and the extensions we offer): one line in, one [`Command`] or one reply out.
//!
//! Lines come without CRLF and without control characters. Deliberately lenient in two ways that all clients need:
//! spaces after `FROM:` and `TO:`, and any visible word as the name in EHLO.

use postrail_schema::limits::{DOMAIN_BYTES_MAX, ENVID_BYTES_MAX, ORCPT_BYTES_MAX, PATH_BYTES_MAX};

use super::{MailCommand, Mechanism};
use crate::mail::{Address, AddressError, BodyType, DsnReturn, ForwardPath, Notify};
use crate::smtp::{Parameter, Reply, parameters, xtext_decode};

/// One command, its arguments parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command<'a> {
    Auth { mechanism: Mechanism, initial: Option<&'a str> },
    Bdat { bytes: u64, last: bool },
    Data,
    Ehlo(&'a str),
    Expn,
    Helo(&'a str),
    Help,
    Mail(MailCommand),
    Noop,
    Quit,
    Rcpt(ForwardPath),
    Rset,
    StartTls,
    Vrfy,
}

/// Why a line is not a command that we take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CommandError {
    /// No such command.
    Unknown,
    /// The command takes other arguments: this form.
    Arguments(&'static str),
    /// The octets of a chunk are not said, so where the next command begins is not known.
    ChunkSize,
    Mechanism,
    /// A parameter that no extension of ours defines, or one that is no parameter.
    ParameterUnknown,
    /// A parameter with a value that it cannot have, or given twice.
    ParameterValue(&'static str),
    Sender(AddressError),
    Recipient(AddressError),
    SenderTooLong,
    RecipientTooLong,
    /// Characters beyond ASCII in an address without SMTPUTF8 (RFC 6531 3.5).
    Utf8Address,
}

impl CommandError {
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::Unknown => Reply::enhanced(500, 5, 1, "Command not known"),
            Self::Arguments(form) => Reply::enhanced(501, 5, 4, format!("The form is {form}")),
            Self::ChunkSize => {
                Reply::enhanced(421, 7, 0, "The form is BDAT octets [LAST]; the next command cannot be found, closing")
            }
            Self::Mechanism => Reply::enhanced(504, 5, 4, "Mechanism not offered: use PLAIN or LOGIN"),
            Self::ParameterUnknown => Reply::enhanced(555, 5, 4, "A parameter is not known or not well formed"),
            Self::ParameterValue(keyword) => {
                Reply::enhanced(501, 5, 4, format!("{keyword} is given twice or its value is not valid"))
            }
            Self::Sender(error) => Reply::enhanced(553, 1, 7, format!("Sender address: {error}")),
            Self::Recipient(error) => Reply::enhanced(553, 1, 3, format!("Recipient address: {error}")),
            Self::SenderTooLong => Reply::enhanced(501, 1, 7, "The sender address is too long"),
            Self::RecipientTooLong => Reply::enhanced(501, 1, 3, "The recipient address is too long"),
            Self::Utf8Address => Reply::enhanced(553, 6, 7, "The address is not ASCII: give SMTPUTF8 with MAIL"),
        }
    }
}

impl<'a> Command<'a> {
    /// Reads a line without CRLF.
    pub(super) fn parse(line: &'a str) -> Result<Self, CommandError> {
        let line = line.trim_end_matches(' ');
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let verb: &str = &verb.to_ascii_uppercase();
        let rest = rest.trim_start_matches(' ');
        match verb {
            "AUTH" => parse_auth(rest),
            "BDAT" => parse_bdat(rest),
            "DATA" => without_arguments(rest, Self::Data, "DATA"),
            "EHLO" => parse_name(rest, "EHLO name").map(Self::Ehlo),
            "EXPN" => Ok(Self::Expn),
            "HELO" => parse_name(rest, "HELO name").map(Self::Helo),
            "HELP" => Ok(Self::Help),
            "MAIL" => parse_mail(rest).map(Self::Mail),
            "NOOP" => Ok(Self::Noop),
            "QUIT" => without_arguments(rest, Self::Quit, "QUIT"),
            "RCPT" => parse_rcpt(rest).map(Self::Rcpt),
            "RSET" => without_arguments(rest, Self::Rset, "RSET"),
            "STARTTLS" => without_arguments(rest, Self::StartTls, "STARTTLS"),
            "VRFY" if rest.is_empty() => Err(CommandError::Arguments("VRFY address")),
            "VRFY" => Ok(Self::Vrfy),
            _ => Err(CommandError::Unknown),
        }
    }
}

fn without_arguments<'a>(rest: &str, command: Command<'a>, form: &'static str) -> Result<Command<'a>, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::Arguments(form)) }
}

fn parse_name<'a>(rest: &'a str, form: &'static str) -> Result<&'a str, CommandError> {
    let is_name = (1..=DOMAIN_BYTES_MAX).contains(&rest.len()) && !rest.chars().any(char::is_whitespace);
    if is_name { Ok(rest) } else { Err(CommandError::Arguments(form)) }
}

fn parse_auth(rest: &str) -> Result<Command<'_>, CommandError> {
    let (mechanism, initial) = match rest.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial)),
        None => (rest, None),
    };
    if mechanism.is_empty() || initial.is_some_and(|initial| initial.contains(' ')) {
        return Err(CommandError::Arguments("AUTH mechanism [initial response]"));
    }
    let mechanism = [Mechanism::Plain, Mechanism::Login]
        .into_iter()
        .find(|offered| offered.name().eq_ignore_ascii_case(mechanism))
        .ok_or(CommandError::Mechanism)?;
    Ok(Command::Auth { mechanism, initial })
}

/// RFC 3030 section 2.
fn parse_bdat(rest: &str) -> Result<Command<'_>, CommandError> {
    let (size, last) = match rest.split_once(' ') {
        Some((size, word)) if word.eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return Err(CommandError::ChunkSize),
        None => (rest, false),
    };
    let bytes = parse_number(size).ok_or(CommandError::ChunkSize)?;
    Ok(Command::Bdat { bytes, last })
}

/// Digits only: no sign, 20 digits at most (RFC 1870 section 3).
fn parse_number(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_mail(rest: &str) -> Result<MailCommand, CommandError> {
    const FORM: CommandError = CommandError::Arguments("MAIL FROM:<address> [parameters]");
    let (path, rest) = split_path(rest, "FROM:").ok_or(FORM)?;
    if path.len() > PATH_BYTES_MAX {
        return Err(CommandError::SenderTooLong);
    }
    let reverse_path = match path {
        "" => None,
        path => Some(Address::parse(path).map_err(CommandError::Sender)?),
    };
    let mut mail = MailCommand { reverse_path, ..MailCommand::default() };
    let mut seen = Seen::default();
    for parameter in parameters(rest) {
        let parameter = parameter.map_err(|_| CommandError::ParameterUnknown)?;
        let keyword =
            *MAIL_KEYWORDS.iter().find(|keyword| parameter.is(keyword)).ok_or(CommandError::ParameterUnknown)?;
        seen.first(keyword)?;
        set_mail_parameter(&mut mail, keyword, parameter).ok_or(CommandError::ParameterValue(keyword))?;
    }
    if !mail.smtp_utf8 && !path.is_ascii() {
        return Err(CommandError::Utf8Address);
    }
    Ok(mail)
}

const MAIL_KEYWORDS: [&str; 6] = ["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"];

fn set_mail_parameter(mail: &mut MailCommand, keyword: &str, parameter: Parameter<'_>) -> Option<()> {
    match (keyword, parameter.value) {
        ("SMTPUTF8", None) => mail.smtp_utf8 = true,
        ("SIZE", Some(value)) => mail.size = Some(parse_number(value)?),
        ("BODY", Some(value)) if value.eq_ignore_ascii_case("7BIT") => mail.body = BodyType::SevenBit,
        ("BODY", Some(value)) if value.eq_ignore_ascii_case("8BITMIME") => mail.body = BodyType::EightBitMime,
        ("RET", Some(value)) if value.eq_ignore_ascii_case("FULL") => mail.ret = Some(DsnReturn::Full),
        ("RET", Some(value)) if value.eq_ignore_ascii_case("HDRS") => mail.ret = Some(DsnReturn::Headers),
        ("ENVID", Some(value)) if value.len() <= ENVID_BYTES_MAX => {
            let octets = xtext_decode(value)?;
            // RFC 3461 4.4: printable once decoded.
            octets.iter().all(|&octet| octet == b' ' || octet.is_ascii_graphic()).then_some(())?;
            mail.envid = Some(value.to_owned());
        }
        // RFC 4954 section 5: who submitted it elsewhere. Taken, and not believed: the credential counts.
        ("AUTH", Some(value)) => {
            xtext_decode(value)?;
        }
        _ => return None,
    }
    Some(())
}

fn parse_rcpt(rest: &str) -> Result<ForwardPath, CommandError> {
    const FORM: CommandError = CommandError::Arguments("RCPT TO:<address> [parameters]");
    let (path, rest) = split_path(rest, "TO:").ok_or(FORM)?;
    if path.len() > PATH_BYTES_MAX {
        return Err(CommandError::RecipientTooLong);
    }
    let address = Address::parse(path).map_err(CommandError::Recipient)?;
    let mut recipient = ForwardPath { address, notify: Notify::Unspecified, orcpt: None };
    let mut seen = Seen::default();
    for parameter in parameters(rest) {
        let parameter = parameter.map_err(|_| CommandError::ParameterUnknown)?;
        if parameter.is("NOTIFY") {
            seen.first("NOTIFY")?;
            recipient.notify = parameter.value.and_then(parse_notify).ok_or(CommandError::ParameterValue("NOTIFY"))?;
        } else if parameter.is("ORCPT") {
            seen.first("ORCPT")?;
            let value = parameter.value.filter(|value| is_orcpt(value));
            recipient.orcpt = Some(value.ok_or(CommandError::ParameterValue("ORCPT"))?.to_owned());
        } else {
            return Err(CommandError::ParameterUnknown);
        }
    }
    Ok(recipient)
}

/// RFC 3461 4.1: NEVER alone, or a list of the others.
fn parse_notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut success,
            "FAILURE" => &mut failure,
            "DELAY" => &mut delay,
            _ => return None,
        };
        *flag = true;
    }
    Some(Notify::On { success, failure, delay })
}

/// RFC 3461 4.2: an address type, a semicolon and xtext; type `utf-8` may hold UTF-8 (RFC 6533 section 3).
fn is_orcpt(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let kind_is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let address_is_valid = if kind.eq_ignore_ascii_case("utf-8") {
        !address.contains(|c: char| c == '=' || c == ' ' || c.is_control())
    } else {
        xtext_decode(address).is_some()
    };
    value.len() <= ORCPT_BYTES_MAX && kind_is_atom && !address.is_empty() && address_is_valid
}

/// The path between angle brackets, without a source route (RFC 5321 appendix C), and what follows it.
fn split_path<'a>(rest: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let tag = rest.get(..word.len())?;
    if !tag.eq_ignore_ascii_case(word) {
        return None;
    }
    let text = rest[word.len()..].trim_start_matches(' ').strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    let end = text.bytes().position(|byte| {
        let ends = byte == b'>' && !quoted;
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = quoted;
        } else if byte == b'"' {
            quoted = !quoted;
        }
        ends
    })?;
    let (path, rest) = (&text[..end], &text[end + 1..]);
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let path = match path.split_once(':') {
        Some((route, path)) if route.starts_with('@') => path,
        _ => path,
    };
    Some((path, rest))
}

/// Parameters that were given already.
#[derive(Default)]
struct Seen(Vec<&'static str>);

impl Seen {
    fn first(&mut self, keyword: &'static str) -> Result<(), CommandError> {
        if self.0.contains(&keyword) {
            return Err(CommandError::ParameterValue(keyword));
        }
        self.0.push(keyword);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(line: &str) -> String {
        match Command::parse(line) {
            Ok(command) => panic!("{line:?} is {command:?}"),
            Err(error) => error.reply().to_string().split(' ').take(2).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn mail_is_read_with_all_its_parameters() {
        let line = "mail from:<Bob@Example.org> SIZE=100 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>";
        let Ok(Command::Mail(mail)) = Command::parse(line) else { panic!() };
        assert_eq!(mail.reverse_path.as_ref().unwrap().as_str(), "Bob@Example.org");
        let expected = MailCommand {
            reverse_path: mail.reverse_path.clone(),
            body: BodyType::EightBitMime,
            smtp_utf8: true,
            size: Some(100),
            ret: Some(DsnReturn::Headers),
            envid: Some("a+2Bb".into()),
        };
        assert_eq!(mail, expected);
        assert_eq!(Command::parse("MAIL FROM: <>"), Ok(Command::Mail(MailCommand::default())));
    }

    #[test]
    fn rcpt_is_read_with_all_its_parameters() {
        let line = "RCPT TO:<@a.example,@b.example:\"a>b\"@example.org> NOTIFY=success,DELAY ORCPT=rfc822;x+2B@y";
        let Ok(Command::Rcpt(path)) = Command::parse(line) else { panic!() };
        assert_eq!(path.address.as_str(), "\"a>b\"@example.org");
        assert_eq!(path.notify, Notify::On { success: true, failure: false, delay: true });
        assert_eq!(path.orcpt.as_deref(), Some("rfc822;x+2B@y"));
    }

    #[test]
    fn other_commands_are_read_in_any_letter_case() {
        for (line, command) in [
            ("ehlo [192.0.2.1]", Command::Ehlo("[192.0.2.1]")),
            ("HELO x ", Command::Helo("x")),
            ("Data", Command::Data),
            ("BDAT 0 last", Command::Bdat { bytes: 0, last: true }),
            ("bdat 12", Command::Bdat { bytes: 12, last: false }),
            ("AUTH plain =", Command::Auth { mechanism: Mechanism::Plain, initial: Some("=") }),
            ("auth LOGIN", Command::Auth { mechanism: Mechanism::Login, initial: None }),
            ("NOOP really", Command::Noop),
            ("vrfy bob", Command::Vrfy),
            ("starttls", Command::StartTls),
        ] {
            assert_eq!(Command::parse(line), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn refusals_have_their_codes() {
        for (line, expected) in [
            ("", "500 5.5.1"),
            ("FOO", "500 5.5.1"),
            ("EHLO", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("QUIT now", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("AUTH", "501 5.5.4"),
            ("AUTH CRAM-MD5", "504 5.5.4"),
            ("BDAT", "421 4.7.0"),
            ("BDAT +1", "421 4.7.0"),
            ("BDAT 99999999999999999999", "421 4.7.0"),
            ("BDAT 1 FIRST", "421 4.7.0"),
            ("MAIL bob@example.org", "501 5.5.4"),
            ("MAIL FROM:bob@example.org", "501 5.5.4"),
            ("MAIL FROM:<bob@example.org", "501 5.5.4"),
            ("MAIL FROM:<bob@example.org>SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<bob>", "553 5.1.7"),
            ("MAIL FROM:<a@b.example> FOO=1", "555 5.5.4"),
            ("MAIL FROM:<a@b.example> SIZE=1 =", "555 5.5.4"),
            ("MAIL FROM:<a@b.example> SIZE=x", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> SIZE=1 SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> SMTPUTF8=1", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> ENVID=a=b", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> ENVID=+0A", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> RET=NONE", "501 5.5.4"),
            ("MAIL FROM:<\u{fc}@b.example>", "553 5.6.7"),
            ("RCPT TO:<>", "553 5.1.3"),
            ("RCPT TO:<bob@>", "553 5.1.3"),
            ("RCPT TO:<a@b.example> SIZE=1", "555 5.5.4"),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("RCPT TO:<a@b.example> NOTIFY", "501 5.5.4"),
            ("RCPT TO:<a@b.example> ORCPT=bob", "501 5.5.4"),
            ("RCPT TO:<a@b.example> ORCPT=rfc822;a=b", "501 5.5.4"),
        ] {
            assert_eq!(code(line), expected, "{line:?}");
        }
        assert_eq!(code(&format!("RCPT TO:<{}@b.example>", "x".repeat(400))), "501 5.1.3");
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line: String, word in "(MAIL FROM:<|RCPT TO:<|AUTH |BDAT |EHLO )") {
            let _ = Command::parse(&line);
            let line = format!("{word}{line}");
            let _ = Command::parse(&line);
        }
    }
}
