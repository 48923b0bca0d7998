//! One HTTP connection of a load: jobs by `POST /v2/jobs`, kept alive between them.
//!
//! Only what the submission API answers is understood: a status line, header fields, and a body of a given length.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CONNECT_TRIES, Composer, Load, OFFERS_MAX, RETRY_PAUSE, answered};
use crate::sink::ID_HEADER;

/// Head and body of one response, octets.
const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sends jobs over one connection at a time, until the load has none left or no connection can be opened.
pub(super) async fn run(load: &Load, recipients_per_job: u64) {
    let authorization = load.plan.login.as_ref().map_or_else(String::new, |login| {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{}:{}", login.username, login.secret)))
    });
    let mut connection = None;
    while let Some(numbers) = load.take(recipients_per_job.max(1)).await {
        let count = numbers.end - numbers.start;
        let request = request(load.plan.target, &authorization, &job(&load.plan.composer, numbers.clone()));
        for offer in 0.. {
            if connection.is_none() {
                connection = connect(load).await;
            }
            let Some(open) = connection.as_mut() else {
                load.tally.doubt(count);
                return;
            };
            match answered(open.exchange(&request)).await {
                Ok(Response { status: 202, keep, .. }) => {
                    load.accept(numbers.clone());
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
                    load.tally.refuse(count);
                    connection = None;
                }
                Err(_) => {
                    load.tally.doubt(count);
                    connection = None;
                }
            }
            break;
        }
    }
}

/// The JSON of one job: a shared text, and each recipient with a number of its own.
fn job(composer: &Composer, numbers: Range<u64>) -> String {
    let content = composer.lines(composer.size(numbers.start));
    let recipients: Vec<_> = numbers
        .clone()
        .map(|number| {
            json!({"mail": {"to": [{"email": composer.recipient(number)}],
                            "xHeaders": {ID_HEADER: format!("{number}-{number}")}}})
        })
        .collect();
    json!({
        "subject": {"content": format!("Job from number {}", numbers.start)},
        "body": {"contentType": "text/plain", "content": if content.is_empty() { "Short.\r\n" } else { content }},
        "recipients": recipients,
        "mail": {"from": {"email": composer.sender()}, "mimeFrom": {"email": composer.sender()}},
    })
    .to_string()
}

fn request(target: SocketAddr, authorization: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v2/jobs HTTP/1.1\r\nHost: {target}\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn connect(load: &Load) -> Option<Connection> {
    for attempt in 0..CONNECT_TRIES {
        let opened = tokio::time::timeout(super::ANSWER_TIMEOUT, TcpStream::connect(load.plan.target)).await;
        if let Ok(Ok(stream)) = opened
            && stream.set_nodelay(true).is_ok()
        {
            return Some(Connection { stream, input: Vec::new() });
        }
        tokio::time::sleep(RETRY_PAUSE * (attempt + 1)).await;
    }
    None
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

#[derive(PartialEq, Eq, Debug)]
struct Response {
    status: u16,
    /// Whether the connection may be used again.
    keep: bool,
}

impl Connection {
    async fn exchange(&mut self, request: &[u8]) -> io::Result<Response> {
        self.stream.write_all(request).await?;
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
        let composer = Composer::new("news@a.test", "demo.test", 5, 2_000..=2_000);
        let job: serde_json::Value = serde_json::from_str(&job(&composer, 7..9)).expect("JSON");
        assert_eq!(job["recipients"][1]["mail"]["to"][0]["email"], "m8@d3.demo.test");
        assert_eq!(job["recipients"][1]["mail"]["xHeaders"]["X-Bench-Id"], "8-8");
        assert!(job["body"]["content"].as_str().expect("text").len() > 1_900);
    }
}
