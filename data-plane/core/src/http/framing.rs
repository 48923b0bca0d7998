//! Message bodies: by length, or in chunks (RFC 9112 section 7.1).
//!
//! The chunked decoder takes any split of its input. It is strict: CRLF line ends, hexadecimal sizes without sign or
//! white space, bounded extensions (dropped) and bounded trailers (checked for form, dropped).

use bytes::BytesMut;

use super::head::Framing;
use super::problem::Problem;

/// One chunk-size line or trailer line with its CRLF, octets.
const LINE_BYTES_MAX: usize = 1_024;
/// All trailer lines, octets.
const TRAILER_BYTES_MAX: usize = 8 * 1_024;
/// What a body is given room for before its octets come.
const CAPACITY_FIRST: usize = 64 * 1024;

/// Collects one body.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) content: BytesMut,
    content_bytes_max: usize,
    step: Step,
    line: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// So many octets of a body of known length are missing.
    Plain(usize),
    ChunkSize,
    /// So many octets of a chunk are missing.
    Chunk(usize),
    /// The CRLF after a chunk's octets.
    ChunkEnd,
    Trailer,
    Done,
}

impl Body {
    /// A body framed as the head says.
    ///
    /// # Errors
    /// 413, if its length is over `content_bytes_max`.
    pub(super) fn new(framing: Framing, content_bytes_max: usize) -> Result<Self, Problem> {
        let (step, capacity) = match framing {
            Framing::Length(0) => (Step::Done, 0),
            Framing::Length(length) if length > content_bytes_max => return Err(too_large(content_bytes_max)),
            Framing::Length(length) => (Step::Plain(length), length.min(CAPACITY_FIRST)),
            Framing::Chunked => (Step::ChunkSize, 0),
        };
        let content = BytesMut::with_capacity(capacity);
        Ok(Self { content, content_bytes_max, step, line: Vec::new(), trailer_bytes: 0 })
    }

    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Takes octets from the front of `input` until it ends or the body is whole; returns what is left.
    ///
    /// # Errors
    /// 400 for broken framing, 413 for a body that is too large, 431 for trailers that are.
    pub(super) fn take<'a>(&mut self, mut input: &'a [u8]) -> Result<&'a [u8], Problem> {
        while !input.is_empty() && !self.is_done() {
            input = match self.step {
                Step::Plain(missing) => {
                    let (rest, missing) = self.copy(input, missing);
                    self.step = if missing == 0 { Step::Done } else { Step::Plain(missing) };
                    rest
                }
                Step::Chunk(missing) => {
                    let (rest, missing) = self.copy(input, missing);
                    self.step = if missing == 0 { Step::ChunkEnd } else { Step::Chunk(missing) };
                    rest
                }
                Step::ChunkSize | Step::ChunkEnd | Step::Trailer => {
                    let rest = self.take_line(input)?;
                    if self.line.ends_with(b"\n") {
                        let line = std::mem::take(&mut self.line);
                        self.end_line(&line)?;
                    }
                    rest
                }
                Step::Done => input,
            };
        }
        Ok(input)
    }

    fn copy<'a>(&mut self, input: &'a [u8], missing: usize) -> (&'a [u8], usize) {
        let (now, rest) = input.split_at(missing.min(input.len()));
        self.content.extend_from_slice(now);
        (rest, missing - now.len())
    }

    fn take_line<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Problem> {
        let end = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        let bound = if self.step == Step::ChunkEnd { 2 } else { LINE_BYTES_MAX };
        let whole = input[..end].ends_with(b"\n");
        if self.line.len() + end + usize::from(!whole) > bound {
            return Err(broken("a line of the chunked body is too long"));
        }
        self.line.extend_from_slice(&input[..end]);
        Ok(&input[end..])
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Problem> {
        let text =
            line.strip_suffix(b"\r\n").ok_or_else(|| broken("a line of the chunked body does not end with CRLF"))?;
        if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(broken("a line of the chunked body has a control character"));
        }
        match self.step {
            Step::ChunkSize => {
                let size = chunk_size(text).ok_or_else(|| broken("a chunk size is not a hexadecimal number"))?;
                if size > self.content_bytes_max - self.content.len() {
                    return Err(too_large(self.content_bytes_max));
                }
                self.step = if size == 0 { Step::Trailer } else { Step::Chunk(size) };
            }
            Step::ChunkEnd if text.is_empty() => self.step = Step::ChunkSize,
            Step::ChunkEnd => return Err(broken("a chunk is longer than its size")),
            Step::Trailer if text.is_empty() => self.step = Step::Done,
            Step::Trailer => {
                self.trailer_bytes += line.len();
                if self.trailer_bytes > TRAILER_BYTES_MAX {
                    return Err(Problem::new(431, "header_fields_too_large", "the trailer section is too large"));
                }
                let name = text.split(|byte| *byte == b':').next().unwrap_or_default();
                let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
                if name.is_empty() || name.len() == text.len() || !name.iter().all(is_token) {
                    return Err(broken("a trailer line is not a field"));
                }
            }
            Step::Plain(_) | Step::Chunk(_) | Step::Done => {}
        }
        Ok(())
    }
}

/// `chunk-size [ chunk-ext ]`; at most 8 digits, so that the number fits.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = &line[digits..];
    let extension = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    if digits == 0 || digits > 8 || !(rest.is_empty() || extension == Some(&b';')) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

fn broken(detail: &str) -> Problem {
    Problem::new(400, "malformed_request", detail)
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(413, "content_too_large", format!("a body has at most {bytes_max} octets here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, Vec<u8>, bool), u16> {
        let mut body = Body::new(Framing::Chunked, 1_000).map_err(|problem| problem.status)?;
        let rest = body.take(input).map_err(|problem| problem.status)?.to_vec();
        Ok((body.content.to_vec(), rest, body.is_done()))
    }

    #[test]
    fn chunks_are_joined() {
        let got = decode(b"5\r\nhello\r\n1;a=\"b\"\r\n!\r\n0\r\nX-Sum: 1\r\n\r\nGET");
        assert_eq!(got, Ok((b"hello!".to_vec(), b"GET".to_vec(), true)));
        assert_eq!(decode(b"0\r\n\r\n"), Ok((vec![], vec![], true)));
        assert_eq!(decode(b"5\r\nhel"), Ok((b"hel".to_vec(), vec![], false)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        for (input, status) in [
            (&b"\r\n"[..], 400),
            (b"5\nhello\r\n", 400),
            (b"-5\r\n", 400),
            (b"+5\r\n", 400),
            (b"0x5\r\n", 400),
            (b" 5\r\n", 400),
            (b"5 \r\n", 400),
            (b"g\r\n", 400),
            (b"5\r\nhello!\r\n", 400),
            (b"5\r\nhello\n", 400),
            (b"5\r\nhello\r\r", 400),
            (b"5;\0\r\n", 400),
            (b"0\r\nbad line\r\n\r\n", 400),
            (b"0\r\n: x\r\n\r\n", 400),
            (b"0\r\nGET / HTTP/1.1\r\n\r\n", 400),
            (b"3e9\r\n", 413),
            (b"ffffffff\r\n", 413),
            (b"100000000\r\n", 400),
            (b"ffffffffffffffffffff\r\n", 400),
        ] {
            assert_eq!(decode(input), Err(status), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        assert_eq!(decode(&[b'0'; LINE_BYTES_MAX + 1]), Err(400));
        let mut trailers = b"0\r\n".to_vec();
        trailers.extend(b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(1_000));
        assert_eq!(decode(&trailers), Err(431));
    }
}
