//! Requests and responses as values.

use bytes::{Bytes, BytesMut};

/// The methods that are known; any other is answered 501 (RFC 9110 section 9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Query,
    Trace,
}

impl Method {
    const ALL: [Self; 9] = [
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Patch,
        Self::Post,
        Self::Put,
        Self::Query,
        Self::Trace,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Query => "QUERY",
            Self::Trace => "TRACE",
        }
    }

    /// The method of that name; names are case-sensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }
}

/// A whole request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    pub method: Method,
    /// The path as sent, starting with `/` (or the `*` of OPTIONS); percent-encoding is left alone.
    pub path: String,
    /// What follows the first `?`, empty without one; percent-encoding is left alone.
    pub query: String,
    /// Names in lower case, in the order of arrival; octets of a value that are not UTF-8 are replaced by U+FFFD.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Request {
    /// The first value of the field with this lower-case name. Fields that decide (`host`, `content-type`,
    /// `authorization`, `idempotency-key`) occur once or the request was refused.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// A whole response; the machine adds `Content-Length` and `Connection`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Response {
    /// An answer without a body.
    pub const fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// An answer with a body of `content_type`.
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { status, headers: vec![("Content-Type".to_owned(), content_type.to_owned())], body: body.into() }
    }

    /// The same with one more field.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Head and body as they go on the wire. A 204 or 304 has no length (RFC 9110 section 8.6); the answer to a HEAD
    /// has the length and no body.
    pub(super) fn encode(&self, to_head: bool, connection: Option<&str>) -> Bytes {
        let bodiless = matches!(self.status, 204 | 304);
        let body: &[u8] = if bodiless || to_head { &[] } else { &self.body };
        let fields: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut out = BytesMut::with_capacity(128 + fields + body.len());
        out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).as_bytes());
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend(value.bytes().map(|b| if b.is_ascii_control() && b != b'\t' { b' ' } else { b }));
            out.extend_from_slice(b"\r\n");
        }
        if !bodiless {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        if let Some(connection) = connection {
            out.extend_from_slice(format!("Connection: {connection}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        out.freeze()
    }
}

/// The phrase of RFC 9110 section 15 (and RFC 6585, RFC 4918) for a status.
pub(super) const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_field() {
        let response = Response::empty(200).with_header("Location", "/x\r\nSet-Cookie: a=b");
        let text = String::from_utf8(response.encode(false, None).to_vec()).unwrap();
        assert_eq!(text, "HTTP/1.1 200 OK\r\nLocation: /x  Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn an_answer_without_content_has_no_length() {
        let text = String::from_utf8(Response::empty(204).encode(false, Some("close")).to_vec()).unwrap();
        assert_eq!(text, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn an_answer_to_head_tells_the_length_only() {
        let text = Response::new(200, "text/plain", "hello").encode(true, None);
        assert!(text.ends_with(b"Content-Length: 5\r\n\r\n"), "{text:?}");
    }
}
