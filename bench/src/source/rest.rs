//! One HTTP connection of a load: jobs by `POST /v2/jobs`, kept alive between them.
//!
//! Only what the submission API answers is understood: a status line, header fields, and a body of a given length.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::message::push_number;
use super::{Composer, LoadPlan, Numbers, OFFERS_MAX, RETRY_PAUSE, Tls, Work, answered, opened};
use crate::sink::ID_HEADER;
use crate::stream::Stream;

/// Head and body of one response, octets.
const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Sends jobs over one connection at a time, until there are none left or no connection can be opened.
pub(super) async fn run(mut work: Work) {
    let mut connection = None;
    let mut request = Request::new(&work.shared.plan);
    while let Some(numbers) = work.next().await {
        request.write(&work.shared.plan.composer, numbers);
        for offer in 0.. {
            if connection.is_none() {
                connection = opened(&work.shared, || Connection::open(&work.shared.plan)).await;
            }
            let Some(open) = connection.as_mut() else {
                work.shared.tally.doubt(numbers.count);
                work.give_up();
                return;
            };
            match answered(open.exchange(&request)).await {
                Ok(Response { status: 202, keep, .. }) => {
                    work.accept(numbers.iter());
                    if !keep {
                        connection = None;
                    }
                }
                Ok(Response { status: 429 | 503 | 507, keep }) if offer < OFFERS_MAX => {
                    if !keep {
                        connection = None;
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Ok(_) => {
                    work.shared.tally.refuse(numbers.count);
                    connection = None;
                }
                Err(_) => {
                    work.shared.tally.doubt(numbers.count);
                    connection = None;
                }
            }
            break;
        }
    }
}

/// The buffers of a request.
struct Request {
    /// Request line and fields, up to the length's value.
    fields: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn new(plan: &LoadPlan) -> Self {
        let authorization = plan.login.as_ref().map_or_else(String::new, |login| {
            format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{}:{}", login.username, login.secret)))
        });
        let fields = format!(
            "POST /v2/jobs HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/json\r\nContent-Length: ",
            plan.target
        );
        Self { fields, head: String::new(), body: Vec::new() }
    }

    /// One job: a shared text, and each recipient with a number of its own.
    fn write(&mut self, composer: &Composer, numbers: Numbers) {
        let body = &mut self.body;
        body.clear();
        body.extend_from_slice(b"{\"subject\":{\"content\":\"Job from number ");
        push_number(numbers.first, body);
        body.extend_from_slice(b"\"},\"body\":{\"contentType\":\"text/plain\",\"content\":\"");
        body.extend_from_slice(composer.json_lines(composer.size(numbers.first)).as_bytes());
        body.extend_from_slice(b"\"},\"mail\":{\"from\":{\"email\":\"");
        body.extend_from_slice(composer.sender().as_bytes());
        body.extend_from_slice(b"\"},\"mimeFrom\":{\"email\":\"");
        body.extend_from_slice(composer.sender().as_bytes());
        body.extend_from_slice(b"\"}},\"recipients\":[");
        for number in numbers.iter() {
            if number != numbers.first {
                body.push(b',');
            }
            body.extend_from_slice(b"{\"mail\":{\"to\":[{\"email\":\"");
            composer.push_recipient(number, body);
            body.extend_from_slice(b"\"}],\"xHeaders\":{\"");
            body.extend_from_slice(ID_HEADER.as_bytes());
            body.extend_from_slice(b"\":\"");
            push_number(number, body);
            body.push(b'-');
            push_number(number, body);
            body.extend_from_slice(b"\"}}}");
        }
        body.extend_from_slice(b"]}");
        self.head.clear();
        self.head.push_str(&self.fields);
        self.head.push_str(&body.len().to_string());
        self.head.push_str("\r\n\r\n");
    }
}

struct Connection {
    stream: Stream,
    input: Vec<u8>,
}

#[derive(PartialEq, Eq, Debug)]
struct Response {
    status: u16,
    /// Whether the connection may be used again.
    keep: bool,
}

impl Connection {
    async fn open(plan: &LoadPlan) -> io::Result<Self> {
        let stream = TcpStream::connect(plan.target).await?;
        stream.set_nodelay(true)?;
        let stream = Stream::Plain(stream);
        let stream = match &plan.tls {
            Tls::None => stream,
            // HTTP has no upgrade in the middle: both kinds are TLS from the start.
            Tls::StartTls(connector) | Tls::Implicit(connector) => {
                stream.into_client_tls(connector, plan.target.ip()).await?
            }
        };
        Ok(Self { stream, input: Vec::new() })
    }

    async fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        let mut parts = [request.head.as_bytes(), &request.body].map(io::IoSlice::new);
        self.stream.write_parts(&mut parts).await?;
        loop {
            if let Some((response, consumed)) = parse(&self.input)? {
                self.input.drain(..consumed);
                return Ok(response);
            }
            if self.input.len() > RESPONSE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless response"));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The first whole response in `input` and its length; `None` where more must come. Interim responses are skipped.
fn parse(input: &[u8]) -> io::Result<Option<(Response, usize)>> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(head_end) = memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&input[..head_end]).map_err(|_| invalid("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .ok_or_else(|| invalid("no HTTP/1.1 status line"))?;
    let (mut length, mut keep) = (0, true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| invalid("a content length that is no number"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("a body without a length"));
        } else if name.eq_ignore_ascii_case("connection") {
            keep = !value.trim().eq_ignore_ascii_case("close");
        }
    }
    let end = (head_end + 4_usize).checked_add(length).ok_or_else(|| invalid("a body beyond all memory"))?;
    if status < 200 {
        let rest = parse(&input[end.min(input.len())..])?;
        return Ok(rest.map(|(response, consumed)| (response, end + consumed)));
    }
    Ok((input.len() >= end).then_some((Response { status, keep }, end)))
}

#[cfg(test)]
mod tests {
    use super::super::{Draw, Mix};
    use super::*;

    #[test]
    fn a_response_is_whole_when_its_body_is() {
        let input = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}HTTP";
        let (response, consumed) = parse(input).expect("valid").expect("whole");
        assert_eq!(response, Response { status: 202, keep: true });
        assert_eq!(&input[consumed..], b"HTTP");
        assert_eq!(parse(&input[..44]).expect("valid"), None);
    }

    #[test]
    fn an_interim_response_is_skipped_and_a_close_is_heeded() {
        let input = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (response, consumed) = parse(input).expect("valid").expect("whole");
        assert_eq!((response.status, response.keep, consumed), (503, false, input.len()));
    }

    #[test]
    fn a_job_numbers_each_recipient() {
        let mix = Mix::new("news@a.test", vec!["d0.demo.test".into()], Draw::Fixed(2_000));
        let mut request = Request { fields: String::new(), head: String::new(), body: Vec::new() };
        request.write(&Composer::new(mix), Numbers { first: 7, count: 2, stride: 1 });
        let job: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(request.head, format!("{}\r\n\r\n", request.body.len()));
        assert_eq!(job["recipients"][1]["mail"]["to"][0]["email"], "m000000008@d0.demo.test");
        assert_eq!(job["recipients"][1]["mail"]["xHeaders"]["X-Bench-Id"], "000000008-000000008");
        assert!(job["body"]["content"].as_str().expect("text").len() > 1_900);
    }
}
