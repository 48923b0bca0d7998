//! The head of a request: request line and fields, parsed by httparse and then judged.
//!
//! httparse is lenient in ways that have let requests be smuggled: it takes a bare LF as a line end and leaves message
//! framing to its caller. Here a head has CRLF line ends only, and RFC 9112 section 6 is read strictly: both
//! Content-Length and Transfer-Encoding, a repeated or listed Content-Length, any coding but `chunked`, and any
//! Transfer-Encoding in HTTP/1.0 are refused.

use bytes::Bytes;
use postrail_schema::limits::HTTP_FIELDS_MAX;

use super::message::{Method, Request};
use super::problem::Problem;

/// How long the body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// What is known when the head ends.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request,
    pub(super) framing: Framing,
    /// The connection may carry another request.
    pub(super) keep_alive: bool,
    /// The client is of HTTP/1.0: it must be told that the connection is kept.
    pub(super) legacy: bool,
    /// The client waits for `100 Continue`.
    pub(super) expects_continue: bool,
}

/// Fields that must not occur twice: two values would let two readers see two requests.
const SINGLE: [&str; 7] =
    ["authorization", "content-length", "content-type", "expect", "host", "idempotency-key", "transfer-encoding"];

/// Octets of empty lines before a request line that are skipped (RFC 9112 section 2.2).
pub(super) fn leading_empty_lines(buffer: &[u8]) -> usize {
    let mut skipped = 0;
    while buffer[skipped..].starts_with(b"\r\n") {
        skipped += 2;
    }
    skipped
}

/// Where the head ends in `buffer`: just after its empty line. `from` octets were searched before.
pub(super) fn end(buffer: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    memchr::memmem::find(&buffer[start..], b"\r\n\r\n").map(|at| start + at + 4)
}

/// Parses a whole head (with its empty line).
///
/// # Errors
/// The problem to answer before the connection is closed.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Problem> {
    let bare = |at: usize| at == 0 || bytes[at - 1] != b'\r';
    if memchr::memchr_iter(b'\n', bytes).any(bare) {
        return Err(malformed("a line of the head does not end with CRLF"));
    }
    let mut fields = [httparse::EMPTY_HEADER; HTTP_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(malformed("the head has an empty line within")),
        Err(httparse::Error::TooManyHeaders) => {
            let detail = format!("a request has at most {HTTP_FIELDS_MAX} header fields");
            return Err(Problem::new(431, "header_fields_too_large", detail));
        }
        Err(httparse::Error::Version) => return Err(version_problem(bytes)),
        Err(error) => return Err(malformed(&format!("the head is malformed: {error}"))),
    }
    let legacy = parsed.version == Some(0);
    let method = parsed
        .method
        .and_then(Method::from_name)
        .ok_or_else(|| Problem::new(501, "method_not_implemented", "the request method is not known here"))?;
    let (path, query) = target(method, parsed.path.unwrap_or_default())?;
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|field| (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).trim().to_owned()))
        .collect();
    for name in SINGLE {
        if headers.iter().filter(|(have, _)| have == name).count() > 1 {
            return Err(malformed(&format!("the field {name} occurs more than once")));
        }
    }
    let request = Request { method, path, query, headers, body: Bytes::new() };
    if !legacy && request.header("host").is_none_or(|host| !is_host(host)) {
        return Err(malformed("HTTP/1.1 needs one valid Host field (RFC 9112 section 3.2)"));
    }
    let framing = framing(&request, legacy)?;
    let expects_continue = expectation(&request, legacy)?;
    let keep_alive = keeps_alive(&request, legacy);
    Ok(Head { request, framing, keep_alive, legacy, expects_continue })
}

fn malformed(detail: &str) -> Problem {
    Problem::new(400, "malformed_request", detail)
}

/// httparse has one error for a version that it does not read and for text that is none.
fn version_problem(bytes: &[u8]) -> Problem {
    let line = &bytes[..memchr::memchr(b'\r', bytes).unwrap_or(bytes.len())];
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Problem::new(505, "http_version_not_supported", "HTTP/1.1 and HTTP/1.0 are spoken here")
        }
        _ => malformed("the request line has no HTTP version"),
    }
}

/// Path and query of a request target (RFC 9112 section 3.2): origin form, absolute form, or the asterisk of OPTIONS.
fn target(method: Method, target: &str) -> Result<(String, String), Problem> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(malformed("the request target has a character that no URI has"));
    }
    if target == "*" && method == Method::Options {
        return Ok((target.to_owned(), String::new()));
    }
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
        _ if target.starts_with('/') => target,
        _ => return Err(malformed("the request target is neither a path nor an http URI")),
    };
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    let path = if path.is_empty() { "/" } else { path };
    Ok((path.to_owned(), query.to_owned()))
}

/// `uri-host [ ":" port ]`, loosely: what it must not have is white space, a comma, a user or a path. Empty is legal.
fn is_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_~%!$&'()*+;=:[]".contains(&byte))
}

fn framing(request: &Request, legacy: bool) -> Result<Framing, Problem> {
    match (request.header("content-length"), request.header("transfer-encoding")) {
        (Some(_), Some(_)) => {
            Err(malformed("Content-Length and Transfer-Encoding exclude each other (RFC 9112 section 6.1)"))
        }
        (None, None) => Ok(Framing::Length(0)),
        (Some(length), None) => {
            let digits = !length.is_empty() && length.len() <= 15 && length.bytes().all(|byte| byte.is_ascii_digit());
            let length = length.parse().ok().filter(|_| digits);
            length.map(Framing::Length).ok_or_else(|| malformed("Content-Length is not one decimal number"))
        }
        (None, Some(_)) if legacy => Err(malformed("HTTP/1.0 has no Transfer-Encoding (RFC 9112 section 6.1)")),
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => {
            Err(Problem::new(501, "transfer_coding_not_implemented", "the only transfer coding spoken here is chunked"))
        }
    }
}

fn expectation(request: &Request, legacy: bool) -> Result<bool, Problem> {
    match request.header("expect") {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(!legacy),
        Some(_) => Err(Problem::new(417, "expectation_failed", "the only expectation met here is 100-continue")),
    }
}

fn keeps_alive(request: &Request, legacy: bool) -> bool {
    let has = |option: &str| {
        let mut values = request.headers.iter().filter(|(name, _)| name == "connection");
        values.any(|(_, value)| value.split(',').any(|token| token.trim().eq_ignore_ascii_case(option)))
    };
    !has("close") && (!legacy || has("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> u16 {
        parse(head.as_bytes()).map_or_else(|problem| problem.status, |_| 200)
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (fields, expected) in [
            ("Content-Length: 5\r\n", 200),
            ("Transfer-Encoding: chunked\r\n", 200),
            ("Transfer-Encoding: Chunked\r\n", 200),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
            ("Content-Length: 5, 5\r\n", 400),
            ("Content-Length: +5\r\n", 400),
            ("Content-Length: -5\r\n", 400),
            ("Content-Length: 0x5\r\n", 400),
            ("Content-Length: \r\n", 400),
            ("Content-Length: 5 5\r\n", 400),
            ("Content-Length: 99999999999999999999999\r\n", 400),
            ("Content-Length : 5\r\n", 400),
            (" Content-Length: 5\r\n", 400),
            ("Content-Length: 5\n", 400),
            ("X: a\nContent-Length: 5\r\n", 400),
            ("X: a\rContent-Length: 5\r\n", 400),
            ("X: a\r\n Content-Length: 5\r\n", 400),
            ("X: a\r\n\tb\r\n", 400),
            ("X\0Y: a\r\n", 400),
            ("X: a\0b\r\n", 400),
            ("Transfer-Encoding: chunked, identity\r\n", 501),
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            ("Transfer-Encoding: identity\r\n", 501),
            ("Transfer-Encoding: xchunked\r\n", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding\x0b: chunked\r\n", 400),
            ("Host: two\r\n", 400),
            ("Authorization: a\r\nAuthorization: b\r\n", 400),
            ("Expect: 100-continue\r\n", 200),
            ("Expect: tea\r\n", 417),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: one\r\n{fields}\r\n");
            assert_eq!(status(&head), expected, "{fields:?}");
        }
    }

    #[test]
    fn request_lines_are_judged() {
        for (line, expected) in [
            ("GET / HTTP/1.1", 200),
            ("GET /a?b=c?d HTTP/1.1", 200),
            ("GET http://one/a HTTP/1.1", 200),
            ("OPTIONS * HTTP/1.1", 200),
            ("TRACE / HTTP/1.1", 200),
            ("QUERY / HTTP/1.1", 200),
            ("GET * HTTP/1.1", 400),
            ("GET /#f HTTP/1.1", 400),
            ("GET /\u{e4} HTTP/1.1", 400),
            ("GET one:80 HTTP/1.1", 400),
            ("BREW / HTTP/1.1", 501),
            ("get / HTTP/1.1", 501),
            ("CONNECT one:80 HTTP/1.1", 501),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/0.9", 505),
            ("GET / HTTP/1.2", 505),
            ("GET / HTPT/1.1", 400),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: one\r\n\r\n")), expected, "{line}");
        }
    }

    #[test]
    fn a_host_is_needed_since_http_1_1() {
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), 200);
        assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn too_many_fields_are_refused() {
        let fields: String = (0..=HTTP_FIELDS_MAX).map(|i| format!("X{i}: a\r\n")).collect();
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: one\r\n{fields}\r\n")), 431);
    }

    #[test]
    fn targets_are_split_into_path_and_query() {
        for (line, path, query) in [
            ("/v2/jobs", "/v2/jobs", ""),
            ("/a?x=1&y=2?z", "/a", "x=1&y=2?z"),
            ("http://host:1/a/b?c", "/a/b", "c"),
            ("https://host", "/", ""),
            ("http://host?c", "/", "c"),
        ] {
            assert_eq!(target(Method::Get, line), Ok((path.to_owned(), query.to_owned())), "{line}");
        }
    }

    #[test]
    fn connections_are_kept_as_the_version_says() {
        for (version, fields, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(parse(head.as_bytes()).unwrap().keep_alive, expected, "{head}");
        }
    }
}
