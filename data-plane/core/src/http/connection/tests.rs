//! Dialogues with one connection: framing, bounds, time, and any split of the input.

use super::*;

const NOW: Instant = Instant::from_nanos(1_000_000_000);

fn config() -> Config {
    Config { body_bytes_max: 1_000, ..Config::new(1_000) }
}

/// Everything that a connection said, with each request answered at once by its own path and body.
#[derive(PartialEq, Debug, Default)]
struct Seen {
    sent: String,
    requests: Vec<(Method, String, String)>,
    closed: bool,
}

fn pump(connection: &mut Connection, seen: &mut Seen) {
    while let Some(output) = connection.poll() {
        assert!(!seen.closed, "nothing follows a close");
        match output {
            Output::Send(bytes) => seen.sent.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Close => seen.closed = true,
            Output::Request(request) => {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                let answer = Response::new(200, "text/plain", format!("{} {body}", request.path));
                seen.requests.push((request.method, request.path, body));
                connection.handle(NOW, Input::Respond(answer));
            }
        }
    }
}

fn dialogue<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let (mut connection, mut seen) = (Connection::new(config(), NOW), Seen::default());
    for chunk in chunks {
        connection.handle(NOW, Input::Bytes(chunk));
        pump(&mut connection, &mut seen);
    }
    connection.handle(NOW, Input::Eof);
    pump(&mut connection, &mut seen);
    assert_eq!(connection.state(), State::Closed);
    seen
}

fn status(sent: &str) -> &str {
    sent.get(9..12).unwrap_or("")
}

#[test]
fn requests_are_answered_in_turn() {
    let seen = dialogue([&b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi\
        \r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n\
        POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        HEAD /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n"[..]]);
    let paths: Vec<_> = seen.requests.iter().map(|(_, path, body)| (path.as_str(), body.as_str())).collect();
    assert_eq!(paths, [("/a", "hi"), ("/b", ""), ("/c", "abc"), ("/d", "")]);
    assert!(seen.sent.ends_with("Content-Length: 3\r\nConnection: close\r\n\r\n"), "{}", seen.sent);
}

#[test]
fn a_request_waits_for_the_answer_before_it() {
    let mut connection = Connection::new(config(), NOW);
    let two = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n";
    connection.handle(NOW, Input::Bytes(two));
    assert!(matches!(connection.poll(), Some(Output::Request(request)) if request.path == "/1"));
    assert_eq!((connection.poll(), connection.state(), connection.wants_input()), (None, State::Responding, false));
    assert_eq!(connection.deadline(), None);
    connection.handle(NOW, Input::Respond(Response::empty(204)));
    assert!(matches!(connection.poll(), Some(Output::Send(_))));
    assert!(matches!(connection.poll(), Some(Output::Request(request)) if request.path == "/2"));
}

#[test]
fn bounds_are_answered_and_close() {
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(HTTP_HEAD_BYTES_MAX));
    let endless = "a".repeat(HTTP_HEAD_BYTES_MAX + 1);
    for (input, expected) in [
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", "413"),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n", "413"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n", "413"),
        (&long_line, "431"),
        (&endless, "431"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("\0", ""),
    ] {
        let seen = dialogue([input.as_bytes()]);
        assert!(seen.closed && seen.requests.is_empty());
        assert_eq!(status(&seen.sent), expected, "{input:.60}");
        if !expected.is_empty() {
            assert!(seen.sent.contains("Connection: close\r\n") && seen.sent.contains("application/problem+json"));
        }
    }
}

#[test]
fn smuggled_requests_are_never_seen() {
    for input in [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let seen = dialogue([input.as_bytes()]);
        assert!(seen.requests.is_empty() && seen.closed, "{input}: {seen:?}");
        assert!(matches!(status(&seen.sent), "400" | "501"), "{input}: {}", seen.sent);
    }
}

#[test]
fn a_client_that_asks_is_told_to_go_on() {
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let seen = dialogue([&head[..], b"ok"]);
    assert!(seen.sent.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{}", seen.sent);
    let at_once = [&head[..], b"ok"].concat();
    assert!(dialogue([&at_once[..]]).sent.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn an_older_client_is_told_that_the_connection_is_kept() {
    let kept = dialogue([&b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n"[..]]);
    assert_eq!(kept.requests.len(), 2);
    assert!(kept.sent.contains("Connection: keep-alive\r\n") && kept.sent.contains("Connection: close\r\n"));
}

#[test]
fn slow_clients_are_timed_out() {
    for (input, expected) in
        [("", ""), ("GET / HT", "408"), ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx", "408")]
    {
        let mut connection = Connection::new(config(), NOW);
        connection.handle(NOW, Input::Bytes(input.as_bytes()));
        let deadline = connection.deadline().unwrap();
        connection.handle(deadline - Duration::from_nanos(1), Input::Timeout);
        assert_ne!(connection.state(), State::Closed);
        connection.handle(deadline, Input::Timeout);
        let mut seen = Seen::default();
        pump(&mut connection, &mut seen);
        assert!(seen.closed);
        assert_eq!(status(&seen.sent), expected, "{input}");
    }
}

#[test]
fn a_head_has_one_deadline_from_its_first_octet() {
    let mut connection = Connection::new(config(), NOW);
    let later = NOW + Duration::from_secs(50);
    connection.handle(later, Input::Bytes(b"G"));
    assert_eq!(connection.deadline(), Some(later + HTTP_IDLE));
    connection.handle(later + Duration::from_secs(50), Input::Bytes(b"E"));
    assert_eq!(connection.deadline(), Some(later + HTTP_IDLE));
}

#[test]
fn draining_finishes_what_runs() {
    let mut idle = Connection::new(config(), NOW);
    idle.handle(NOW, Input::Drain);
    assert_eq!(idle.poll(), Some(Output::Close));
    let (mut busy, mut seen) = (Connection::new(config(), NOW), Seen::default());
    busy.handle(NOW, Input::Bytes(b"GET /1 HTTP/1.1\r\nHost: h\r\n"));
    busy.handle(NOW, Input::Drain);
    busy.handle(NOW, Input::Bytes(b"\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n"));
    pump(&mut busy, &mut seen);
    assert_eq!((seen.requests.len(), seen.closed), (1, true));
    assert!(seen.sent.contains("Connection: close"));
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let (mut connection, mut seen) = (Connection::new(config(), NOW), Seen::default());
    connection.handle(NOW, Input::Bytes(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET"));
    connection.handle(NOW, Input::Eof);
    pump(&mut connection, &mut seen);
    assert_eq!((seen.requests.len(), seen.closed), (2, true));
}

#[test]
fn input_during_an_answer_is_bounded() {
    let (mut connection, mut seen) = (Connection::new(config(), NOW), Seen::default());
    connection.handle(NOW, Input::Bytes(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"));
    for _ in 0..100 {
        connection.handle(NOW, Input::Bytes(&[b'x'; 64 * 1024]));
        assert!(connection.bytes_held() <= HTTP_PIPELINE_BYTES_MAX);
    }
    pump(&mut connection, &mut seen);
    assert_eq!((seen.requests.len(), seen.closed), (1, true));
}

#[test]
fn a_body_can_be_refused_before_it_is_whole() {
    let (mut connection, mut seen) = (Connection::new(config(), NOW), Seen::default());
    connection.handle(NOW, Input::Bytes(b"POST /j HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"));
    assert_eq!(connection.announced().map(|request| request.path.as_str()), Some("/j"));
    assert_eq!(connection.bytes_held(), 3);
    connection.handle(NOW, Input::Respond(Problem::new(401, "unauthenticated", "who is it?").into()));
    pump(&mut connection, &mut seen);
    assert_eq!((status(&seen.sent), seen.requests.len(), seen.closed), ("401", 0, true));
}

#[test]
fn requests_of_a_connection_are_counted() {
    let mut connection = Connection::new(Config { requests_max: 2, ..config() }, NOW);
    let mut seen = Seen::default();
    connection.handle(NOW, Input::Bytes(&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(5)));
    pump(&mut connection, &mut seen);
    assert_eq!((seen.requests.len(), seen.closed), (2, true));
}

fn pieces() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let piece = prop_oneof![
        Just(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        Just(b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
        Just(b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n".to_vec()),
        Just(b"HEAD /d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"GET /e HTTP/1.1\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

proptest::proptest! {
    #[test]
    fn any_split_of_the_input_gives_the_same_dialogue(input in pieces(), sizes in proptest::collection::vec(1_usize..20, 1..50)) {
        let whole = dialogue([&input[..]]);
        let (mut chunks, mut rest) = (Vec::new(), &input[..]);
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        proptest::prop_assert_eq!(whole, dialogue(chunks));
    }

    #[test]
    fn hostile_octets_never_panic(chunks in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..100), 0..10)) {
        dialogue(chunks.iter().map(Vec::as_slice));
    }
}
