//! Receivers that misbehave: the mail is not lost, another domain's mail flows, and the server lives.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use postrail_tests::judge;
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::world::{Mail, World, message};

const ZONES: [(&str, &str); 2] =
    [("bad.test.", "@ MX 10 mx\nmx A 127.0.0.21"), ("good.test.", "@ MX 10 mx\nmx A 127.0.0.22")];

/// A story with a receiver that misbehaves and one that does not.
struct Pair {
    world: World,
    bad: Receiver,
    _good: Receiver,
}

impl Pair {
    fn new(name: &str) -> Self {
        let world = World::new(name, &ZONES);
        let (bad, _good) = (world.receiver(21), world.receiver(22));
        Self { world, bad, _good }
    }

    /// Mail to the other domain is delivered meanwhile.
    fn others_flow(&self) {
        let job = self.world.send("someone@good.test", &message("", "Hello.\r\n"));
        self.world.wait(&job, "delivered");
    }

    /// Sends to the bad one, which misbehaves so at `stage`; the mail waits, and is delivered once it behaves.
    fn survives(&self, stage: Stage, act: &Act) {
        let before = self.bad.arrived().len();
        let connections = self.bad.connections();
        self.bad.script(stage, act.clone(), usize::MAX);
        // So that the next mail needs a new connection and meets every stage.
        self.bad.hang_up();
        let job = self.world.send("someone@bad.test", &message("", "Hello.\r\n"));
        if *act == Act::Hang {
            wait::until(&format!("a connection to hang at {stage:?}"), || (self.bad.hanging() > 0).then_some(()));
            self.others_flow();
            self.bad.script(stage, Act::Drop, usize::MAX);
            self.bad.release();
            self.waits(&job, stage);
        } else {
            wait::until(&format!("the receiver to be tried, {stage:?}"), || {
                (self.bad.connections() > connections).then_some(())
            });
            self.waits(&job, stage);
            self.others_flow();
        }
        self.bad.script(stage, act.clone(), 0);
        self.delivered_after_retries(&job, stage);
        let twice = stage == Stage::EndOfData && matches!(act, Act::Say(reply) if reply.starts_with('2'));
        assert_eq!(self.bad.arrived().len(), before + 1 + usize::from(twice), "{stage:?}");
    }

    /// The mail waits for its next attempt.
    fn waits(&self, job: &str, stage: Stage) {
        let end = std::time::Instant::now() + wait::LIMIT;
        while self.world.postrail.recipients(job).first().is_none_or(|recipient| recipient["state"] != "deferred") {
            let queue = || self.world.postrail.control_ok("GET", "/v2/queue", None);
            assert!(std::time::Instant::now() < end, "{job} waits after {stage:?}: {}", queue());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn delivered_after_retries(&self, job: &str, stage: Stage) {
        wait::until(&format!("{job}, misled at {stage:?}, to be delivered"), || {
            let recipients = self.world.postrail.recipients(job);
            let state = recipients.first().map(|recipient| recipient["state"].clone())?;
            assert!(["accepted", "deferred", "delivered"].map(Into::into).contains(&state), "{recipients:?}");
            if state == "deferred" {
                self.world.retry();
                std::thread::sleep(Duration::from_millis(200));
            }
            (state == "delivered").then_some(())
        });
    }
}

#[test]
fn a_receiver_that_drops_the_connection_at_any_stage_gets_the_mail_later() {
    let pair = Pair::new("drops");
    for stage in Stage::ALL {
        pair.survives(stage, &Act::Drop);
    }
}

#[test]
fn a_receiver_that_hangs_at_any_stage_delays_nobody_else() {
    let pair = Pair::new("hangs");
    for stage in Stage::ALL {
        pair.survives(stage, &Act::Hang);
    }
}

#[test]
fn a_receiver_that_answers_garbage_at_any_stage_gets_the_mail_later() {
    let pair = Pair::new("garbage");
    for stage in Stage::ALL {
        pair.survives(stage, &Act::Say("\u{0}\u{7f}what is this\r\n999999 nor this\r\n".to_owned()));
    }
}

#[test]
fn a_receiver_that_sends_10000_reply_lines_is_cut_off() {
    let pair = Pair::new("lines");
    let lines = "250-and one more line of a reply without end\r\n".repeat(10_000);
    for stage in [Stage::Ehlo, Stage::Rcpt, Stage::EndOfData] {
        pair.survives(stage, &Act::Say(lines.clone()));
    }
}

#[test]
fn a_receiver_that_answers_very_slowly_gets_the_mail() {
    let pair = Pair::new("slow");
    for stage in Stage::ALL {
        pair.bad.script(stage, Act::Slowly, usize::MAX);
    }
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    pair.others_flow();
    pair.world.wait(&job, "delivered");
    assert_eq!(pair.bad.wait_for(1).len(), 1);
}

#[test]
fn a_greylisting_receiver_gets_the_mail_at_the_second_attempt() {
    let pair = Pair::new("greylist");
    pair.bad.script(Stage::Rcpt, Act::Say("451 4.7.1 Greylisted, try again in 300 seconds\r\n".to_owned()), 1);
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    let deferred = pair.world.wait(&job, "deferred");
    assert_eq!(deferred["last_reply"]["code"], 451, "{deferred}");
    pair.others_flow();
    pair.world.retry();
    let delivered = pair.world.wait(&job, "delivered");
    assert_eq!(delivered["attempts"], 2, "{delivered}");
}

#[test]
fn a_refusal_at_the_greeting_is_about_us_and_never_bounces() {
    let pair = Pair::new("greeting");
    for stage in [Stage::Greeting, Stage::Ehlo] {
        pair.survives(stage, &Act::Say("554 5.7.1 your address is not welcome\r\n".to_owned()));
    }
}

#[test]
fn a_refusal_at_the_end_of_data_bounces_with_its_words() {
    let pair = Pair::new("end-of-data");
    pair.bad.script(Stage::EndOfData, Act::Say("554-5.7.1 first line\r\n554 5.7.1 looks like spam\r\n".to_owned()), 1);
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    let bounced = pair.world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["code"], 554, "{bounced}");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.7.1", "{bounced}");
    assert!(bounced["last_reply"]["text"].as_str().is_some_and(|text| text.contains("looks like spam")), "{bounced}");
    pair.world.sender.wait_for(1);
    pair.others_flow();
}

#[test]
fn a_handshake_that_fails_is_followed_by_plaintext() {
    let pair = Pair::new("handshake");
    pair.bad.offer(&["PIPELINING", "STARTTLS", "8BITMIME"]);
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    pair.world.wait(&job, "delivered");
    let attempts = pair.world.wait_attempts(&job, 1);
    assert_eq!(attempts.last().map(|attempt| attempt["tls"].clone()), Some("".into()), "{attempts:?}");
    assert_eq!(pair.bad.arrived().len(), 1);
}

#[test]
fn a_hundred_mails_take_few_connections() {
    let pair = Pair::new("reuse");
    let jobs: Vec<String> = {
        let entries: Vec<_> = (0..100)
            .map(|number| serde_json::json!({"mail": {"to": [{"email": format!("user{number}@bad.test")}]}}))
            .collect();
        let job = serde_json::json!({
            "subject": {"content": "A job"}, "body": {"contentType": "text/plain", "content": "Hello.\n"},
            "recipients": entries, "mail": {"from": {"email": "app@sender.test"}},
        });
        let (status, answer) = pair.world.postrail.submit(&job);
        assert_eq!(status, 202, "{answer}");
        vec![answer["meta"]["jobId"].as_str().unwrap_or_default().to_owned()]
    };
    let arrived = pair.bad.wait_for(100);
    assert_eq!(arrived.len(), 100);
    // Ten connections a path, and each of the two shards has its own paths.
    assert!(pair.bad.connections() <= 20, "{} connections", pair.bad.connections());
    pair.world.postrail.all_recipients(&jobs[0], 100);
}

#[test]
fn a_receiver_without_any_extension_gets_plain_smtp() {
    let pair = Pair::new("no-extension");
    pair.bad.offer(&[]);
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    pair.world.wait(&job, "delivered");
    assert_eq!(pair.bad.arrived()[0].mail, "MAIL FROM:<app@sender.test>");
    assert_eq!(pair.bad.arrived()[0].rcpt, ["RCPT TO:<someone@bad.test>"]);
}

#[test]
fn a_receiver_that_knows_no_ehlo_is_greeted_with_helo() {
    let pair = Pair::new("helo");
    pair.bad.script(Stage::Ehlo, Act::Say("502 5.5.2 what is EHLO\r\n".to_owned()), 1);
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    pair.world.wait(&job, "delivered");
    assert!(pair.bad.arrived()[0].ehlo.starts_with("HELO "), "{}", pair.bad.arrived()[0].ehlo);
}

#[test]
fn a_receiver_that_says_4yz_at_any_stage_gets_the_mail_later() {
    let pair = Pair::new("not-now");
    for reply in ["451 4.3.0 not now\r\n", "421 4.3.2 shutting down\r\n", "450 not\u{e4} now\r\n"] {
        for stage in Stage::ALL {
            pair.survives(stage, &Act::Say(reply.to_owned()));
        }
    }
}

#[test]
fn a_receiver_that_offers_starttls_and_cannot_gets_the_mail_in_plaintext() {
    let pair = Pair::new("no-starttls");
    pair.bad.offer(&["STARTTLS", "PIPELINING"]);
    for (number, act) in [Act::Say("454 4.7.0 TLS not available\r\n".to_owned()), Act::Drop].into_iter().enumerate() {
        pair.bad.script(Stage::StartTls, act, usize::MAX);
        pair.bad.hang_up();
        let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
        pair.world.wait(&job, "delivered");
        assert_eq!(pair.bad.arrived().len(), number + 1);
    }
}

#[test]
fn commands_are_sent_ahead_only_where_pipelining_is_offered() {
    let pair = Pair::new("pipelining");
    let to: Vec<String> = (0..20).map(|number| format!("user{number}@bad.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let message = message("", "Hello.\r\n");
    for (number, offered) in [&["8BITMIME"][..], &["PIPELINING"]].into_iter().enumerate() {
        pair.bad.offer(offered);
        pair.bad.hang_up();
        let job = pair.world.submit(&Mail::new(&to, &message)).expect("accepted");
        pair.world.wait(&job, "delivered");
        let arrived = pair.bad.arrived();
        assert_eq!((arrived.len(), arrived[number].rcpt.len()), (number + 1, 20));
        assert_eq!(arrived[number].pipelined, offered.contains(&"PIPELINING"), "{offered:?}");
    }
}

#[test]
fn a_mail_over_the_size_that_a_receiver_offers_bounces_unsent() {
    let pair = Pair::new("receivers-size");
    pair.bad.offer(&["PIPELINING", "SIZE 2000"]);
    let job = pair.world.send("someone@bad.test", &message("", &"a line\r\n".repeat(1_000)));
    let bounced = pair.world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.3.4", "{bounced}");
    let report = judge::report(&pair.world.place, &pair.world.sender.wait_for(1)[0].content);
    assert_eq!(report["recipients"][0]["status"], "5.3.4", "{report}");
    assert!(pair.bad.arrived().is_empty());
}

#[test]
fn many_recipients_go_in_transactions_of_at_most_a_hundred() {
    let pair = Pair::new("many");
    let to: Vec<String> = (0..250).map(|number| format!("user{number}@bad.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let job = pair.world.submit(&Mail::new(&to, &message("", "Hello.\r\n"))).expect("accepted");
    pair.world.postrail.all_recipients(&job, 250);
    let arrived = pair.bad.arrived();
    assert!(arrived.len() <= 5 && arrived.iter().all(|mail| mail.rcpt.len() <= 100), "{}", arrived.len());
    let mut addresses: Vec<String> = arrived.iter().flat_map(|mail| mail.rcpt.clone()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 250);
}

#[test]
fn a_signed_8_bit_mail_bounces_at_a_receiver_without_8bitmime() {
    let pair = Pair::new("multipart-signed");
    pair.bad.offer(&["PIPELINING"]);
    let fields = "MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b; micalg=pgp-sha256;\r\n\
                  \x20protocol=\"application/pgp-signature\"\r\n";
    let body = "--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e\r\n\
                --b\r\nContent-Type: application/pgp-signature\r\n\r\nsignature\r\n--b--\r\n";
    let content = message(fields, body);
    let to = ["someone@bad.test"];
    let mail = Mail { mail_options: &["BODY=8BITMIME"], ..Mail::new(&to, &content) };
    let job = pair.world.submit(&mail).expect("accepted");
    let bounced = pair.world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.6.3", "{bounced}");
}

#[test]
fn a_handshake_that_hangs_delays_nobody_else() {
    let pair = Pair::new("handshake-hangs");
    pair.bad.offer(&["STARTTLS", "PIPELINING"]);
    pair.bad.script(Stage::StartTls, Act::Hang, usize::MAX);
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    wait::until("a connection to hang", || (pair.bad.hanging() > 0).then_some(()));
    pair.others_flow();
    pair.bad.script(Stage::StartTls, Act::Drop, usize::MAX);
    pair.bad.release();
    pair.world.wait(&job, "delivered");
    assert_eq!(pair.world.wait_attempts(&job, 1)[0]["tls"], "", "a handshake that fails is followed by plaintext");
}

#[test]
fn a_receiver_that_stops_reading_delays_nobody_else() {
    let world = World::new("stops-reading", &ZONES);
    let (bad, _good) = (Unread::start(world.at(21)), world.receiver(22));
    let line = format!("{}\r\n", "x".repeat(76));
    let body = line.repeat(10 * 1024 * 1024 / line.len());
    let job = world.send("someone@bad.test", &message("", &body));
    let mut stalled = bad.stalled();
    for number in 0..3 {
        let other = world.send(&format!("user{number}@good.test"), &message("", "Hello.\r\n"));
        world.wait(&other, "delivered");
    }
    assert_eq!(world.postrail.recipients(&job)[0]["settled"], false);
    stalled.write_all(b"452 4.3.1 no room\r\n").expect("the connection is open");
    drop(stalled);
    let deferred = world.wait(&job, "deferred");
    assert!(deferred["last_reply"].is_object(), "{deferred}");
    let receiver = world.receiver(21);
    wait::until("the mail to be taken", || {
        world.retry();
        std::thread::sleep(Duration::from_millis(300));
        (world.postrail.recipients(&job)[0]["state"] == "delivered").then_some(())
    });
    assert!(receiver.arrived()[0].content.ends_with(body.as_bytes()));
}

/// A receiver that answers one session up to DATA and then reads no more.
struct Unread(std::sync::mpsc::Receiver<TcpStream>);

impl Unread {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a receiver can listen");
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            let mut lines = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
            stream.write_all(b"220 unread.test ESMTP\r\n").expect("the client reads");
            let mut line = String::new();
            while !line.starts_with("DATA") {
                line.clear();
                lines.read_line(&mut line).expect("the client speaks");
                let reply = if line.starts_with("DATA") { "354 go on\r\n" } else { "250 ok\r\n" };
                stream.write_all(reply.as_bytes()).expect("the client reads");
            }
            drop(tell.send(stream));
        });
        Self(told)
    }

    /// The connection, once it is in DATA.
    fn stalled(&self) -> TcpStream {
        self.0.recv_timeout(wait::LIMIT).expect("the session comes to DATA")
    }
}

#[test]
fn odd_but_lawful_replies_are_understood() {
    let pair = Pair::new("odd");
    let replies = [
        (Stage::Greeting, "220-first\r\n220-\r\n220\r\n"),
        (
            Stage::Ehlo,
            "250-receiver.test\r\n250-pipelining\r\n250-sIzE\r\n250-8bitmime\r\n250-X-UNKNOWN a b c\r\n250\r\n",
        ),
        (Stage::Mail, "250\r\n"),
        (Stage::Rcpt, "251 2.1.5 will forward\r\n"),
        (Stage::EndOfData, "250-2.0.0 taken\r\n250 2.0.0 \u{1f600}\r\n"),
    ];
    for (stage, reply) in replies {
        pair.bad.script(stage, Act::Say(reply.to_owned()), usize::MAX);
    }
    let job = pair.world.send("someone@bad.test", &message("", "Hello.\r\n"));
    let delivered = pair.world.wait(&job, "delivered");
    assert!(delivered["last_reply"]["text"].as_str().is_some_and(|text| text.contains("taken")), "{delivered}");
}
