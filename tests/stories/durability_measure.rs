//! Measured, not judged: how long a start takes with much mail waiting, and what a waiting mail costs in memory.
//!
//! Runs where POSTRAIL_MEASURE is set to the number of mails; it prints what it found:
//! `POSTRAIL_MEASURE=100000 cargo test --release -p postrail-tests --test stories measure -- --nocapture`

use std::time::{Duration, Instant};

use postrail_tests::place::Place;
use postrail_tests::postrail::Postrail;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use reqwest::blocking::Client;
use serde_json::json;

use crate::durability::ZONE;

/// Connections that submit.
const CLIENTS: usize = 8;

/// Resident memory of a process, octets.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("our child is alive");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has resident memory");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kilobytes * 1024
}

/// CPU time of a process so far.
fn cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our child is alive");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Submits `mails` jobs of 10 KB with one recipient each.
fn fill(postrail: &Postrail, mails: usize) {
    let body = "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.\n".repeat(152);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let body = &body;
            scope.spawn(move || {
                let http = Client::new();
                for number in (client..mails).step_by(CLIENTS) {
                    let job = json!({
                        "subject": {"content": "Waiting"},
                        "body": {"contentType": "text/plain", "content": body},
                        "recipients": [{"mail": {"to": [{"email": format!("wait+{number}@receiver.test")}]}}],
                        "mail": {"from": {"email": "a@sender.test"}, "mimeFrom": {"email": "a@sender.test"}},
                    });
                    let request = http.post(format!("http://{}/v2/jobs", postrail.rest)).json(&job);
                    let answer = request.basic_auth(&postrail.username, Some(&postrail.secret)).send();
                    let status = answer.expect("REST submission answers").status().as_u16();
                    assert_eq!(status, 202, "mail {number}");
                }
            });
        }
    });
}

#[test]
fn measure_start_and_memory_with_waiting_mail() {
    let Some(mails) = std::env::var("POSTRAIL_MEASURE").ok().and_then(|mails| mails.parse::<usize>().ok()) else {
        println!("not measured: POSTRAIL_MEASURE is not set");
        return;
    };
    let place = Place::new("measure");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let suspension = json!({"tenant": "default", "reason": "measured"});
    postrail.control_ok("POST", "/v2/suspensions", Some(&suspension));
    postrail.settled_configuration();
    let empty = resident(postrail.child().id());
    let begun = Instant::now();
    let cpu_before = cpu(postrail.child().id());
    fill(&postrail, mails);
    let took = begun.elapsed();
    let spent = cpu(postrail.child().id()) - cpu_before;
    assert_eq!(postrail.metric("postrail_waiting_recipients"), mails as u64);
    let filled = resident(postrail.child().id());
    println!(
        "{mails} mails of 10 KB accepted in {took:.2?}: {:.0}/s, {:.0} us of CPU each",
        mails as f64 / took.as_secs_f64(),
        spent.as_micros() as f64 / mails as f64
    );
    println!("resident: {empty} octets empty, {filled} octets full, {} a mail", (filled - empty) / mails as u64);
    for what in ["SIGTERM", "SIGKILL"] {
        if what == "SIGTERM" {
            postrail.drain();
        } else {
            postrail.child().kill();
        }
        let begun = Instant::now();
        postrail.start_again();
        let ready = begun.elapsed();
        wait::within(Duration::from_secs(300), "all mail to be back", || {
            (postrail.metric("postrail_waiting_recipients") == mails as u64).then_some(())
        });
        let recovered = begun.elapsed();
        let after = resident(postrail.child().id());
        println!(
            "after {what}: ready {ready:.2?}, all mail back {recovered:.2?}, resident {after} octets, {} a mail",
            after.saturating_sub(empty) / mails as u64
        );
    }
}
