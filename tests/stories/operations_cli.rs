//! The command line as a whole: it covers the control API, shells complete it, and `man` has a page of every command.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use postrail_tests::child::{run, try_run};
use postrail_tests::place::Place;
use postrail_tests::postrail::{Postrail, binary};
use serde_json::Value;

use crate::durability::job;

/// Operations that no command has, and why.
const EXEMPT: &[(&str, &str, &str)] = &[
    ("GET", "/", "tells a person with a browser what listens here"),
    ("GET", "/healthz", "for what watches the process"),
    ("GET", "/readyz", "for what watches the process"),
    ("GET", "/metrics", "for Prometheus"),
];

/// Commands that between them ask everything of the control API. `ID`: a job; `FILE`: what `export` printed.
const COMMANDS: &[&str] = &[
    "tenant list",
    "tenant add shop --quota-per-day 10",
    "tenant show shop",
    "tenant quota shop",
    "tenant set shop --weight 3 --quota-per-day none",
    "region list",
    "region add eu --submission-host mail.eu.sender.test",
    "region show eu",
    "region set eu --submission-host mx.eu.sender.test",
    "region remove eu",
    "domain list",
    "domain add shop.test --tenant shop",
    "domain show shop.test",
    "domain check shop.test",
    "domain assign shop.test",
    "domain key list shop.test",
    "domain key add shop.test --selector june",
    "domain key rotate shop.test",
    "domain key sign shop.test june",
    "domain key retire shop.test june",
    "domain key retire shop.test june",
    "domain key remove shop.test june",
    "domain remove shop.test",
    "domain add plain.test --tenant shop --unsigned",
    "domain remove plain.test",
    "domain add half.test --tenant shop --dkim-key rsa-sha256",
    "domain remove half.test",
    "key rotate",
    "settings show",
    "settings set --domain-verification operator",
    "credential list",
    "credential add shop-app --tenant shop",
    "credential show shop-app",
    "credential set shop-app --scope submit --network 192.0.2.0/24",
    "credential set shop-app --all-scopes --anywhere",
    "credential rotate shop-app",
    "credential disable shop-app",
    "credential enable shop-app",
    "credential remove shop-app",
    "operator list",
    "operator add alice --role viewer",
    "operator show alice",
    "operator role alice operator",
    "operator networks alice --network 192.0.2.0/24",
    "operator networks alice --anywhere",
    "operator rotate alice",
    "operator remove alice",
    "source list",
    "source add out1 --address 192.0.2.10 --ehlo out1.sender.test",
    "source show out1",
    "source set out1 --address 192.0.2.11 --ehlo out1.sender.test",
    "pool list",
    "pool add bulk --source out1",
    "pool show bulk",
    "pool set bulk --source out1=2",
    "pool remove bulk",
    "source remove out1",
    "route list",
    "route add example.net --to relay.sender.test",
    "route show example.net",
    "route remove example.net",
    "routing-rule list",
    "routing-rule add letters --class marketing --pool default",
    "routing-rule show letters",
    "routing-rule set letters --class person-to-person --pool default",
    "routing-rule remove letters",
    "tls-rule list",
    "tls-rule add bank --to bank.test --level verified --host .bank.test --minimum-version 1.3",
    "tls-rule show bank",
    "tls-rule set bank --to bank.test --level required",
    "tls-rule remove bank",
    "explain --from sender.test --to receiver.test",
    "explain --from sender.test --tenant default --to receiver.test",
    "retry-policy list",
    "retry-policy add codes --class transactional --first 10s --longest 2m --expiry 15m",
    "retry-policy show codes",
    "retry-policy set codes --class transactional --first 20s",
    "retry-policy remove codes",
    "provider list",
    "provider add google --host .google.com",
    "provider show google",
    "provider set google --host .google.com --host .googlemail.com",
    "listener list",
    "listener add extra --protocol smtp --address 127.0.0.1:9 --host nowhere --connections 5",
    "listener show extra",
    "listener set extra --protocol smtp --address 127.0.0.1:9 --host nowhere --tls required",
    "listener status",
    "listener remove extra",
    "shaping-rule list",
    "shaping-rule add google --provider google --connections 5 --mail-rate 100/s",
    "shaping-rule show google",
    "shaping-rule set google --provider google --connections 4",
    "shaping-rule remove google",
    "provider remove google",
    "suppression list",
    "suppression add gone@receiver.test",
    "suppression show gone@receiver.test",
    "suppression set gone@receiver.test --reason letter",
    "suppression remove gone@receiver.test",
    "suppression clear --tenant default",
    "host list",
    "host show mx1",
    "host drain mx1",
    "host resume mx1",
    "host forget mx1",
    "queue",
    "queue retry --all",
    "queue suspend --site receiver.test --reason test",
    "queue suspensions",
    "queue suspension 1",
    "queue resume 1",
    "quarantine list",
    "quarantine release ID",
    "quarantine drop ID",
    "queue cancel ID",
    "queue bounce ID",
    "job show ID",
    "job recipients ID",
    "trace ID",
    "events --limit 10",
    "audit",
    "problems",
    "tenant remove shop",
    "export",
    "plan -f FILE",
    "apply -f FILE --yes",
];

/// What is in the commands that only look; each is asked for JSON as well.
const READS: &[&str] = &[
    " list",
    " show",
    " status",
    "queue suspensions",
    "queue suspension",
    "job recipients",
    "trace",
    "events",
    "audit",
    "problems",
];

/// Passes requests on to the control API, one a connection, and remembers method and path of each.
struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Recorder {
    fn start(api: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || pass(client, api, &kept));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().expect("no panic while locked").clone()
    }
}

/// One request and its answer.
fn pass(mut client: TcpStream, api: SocketAddr, seen: &Mutex<Vec<(String, String)>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 65_536 {
        let mut octet = [0];
        client.read_exact(&mut octet).ok()?;
        head.push(octet[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let (line, fields) = text.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let path = target.split('?').next()?.to_owned();
    seen.lock().expect("no panic while locked").push((method, path));
    let length = fields.lines().find_map(|field| {
        let (name, value) = field.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body).ok()?;
    let mut server = TcpStream::connect(api).ok()?;
    server.write_all(format!("{line}\r\nConnection: close\r\n{fields}").as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    std::io::copy(&mut server, &mut client).ok()?;
    client.shutdown(Shutdown::Both).ok()
}

/// Whether `path` is one of those that `template` stands for.
fn is_of(path: &str, template: &str) -> bool {
    let (given, wanted): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    given.len() == wanted.len()
        && given.iter().zip(&wanted).all(|(given, wanted)| wanted.starts_with('{') || given == wanted)
}

#[test]
fn every_operation_of_the_control_api_has_a_command() {
    let place = Place::new("cli-covers");
    let postrail = Postrail::start_with(&place, &["--resolver", "127.0.0.1:1", "--shards", "1"]);
    let (status, answer) = postrail.submit(&job("covered@receiver.test"));
    assert_eq!(status, 202, "{answer}");
    let id = answer.pointer("/meta/jobId").and_then(Value::as_str).expect("the job has an id");
    postrail_tests::wait::until("the ledger to have the job", || (!postrail.recipients(id).is_empty()).then_some(()));
    let document = place.join("fleet.toml").display().to_string();
    let recorder = Recorder::start(postrail.api);
    for command in COMMANDS {
        let words = command.split(' ').map(|word| match word {
            "ID" => id,
            "FILE" => &document,
            word => word,
        });
        let mut asked = Command::new(binary());
        asked.args(words).arg("--data").arg(postrail.data());
        let (status, text) = try_run(asked.args(["--api", &format!("http://{}", recorder.address)]));
        // A job that is settled is not cancelled again, nobody answers questions about domains here, one host by itself
        // has no others, and no next master key was made.
        let may_fail = [
            "quarantine release",
            "quarantine drop",
            "queue cancel",
            "queue bounce",
            "domain check",
            "host ",
            "key rotate",
        ];
        let may_fail = may_fail.iter().any(|one| command.starts_with(one));
        assert!(status.success() || may_fail, "postrail {command} ended with {status}:\n{text}");
        assert!(!text.contains("panicked"), "{text}");
        let looks = READS.iter().any(|read| command.ends_with(read) || command.contains(&format!("{read} ")));
        if looks || *command == "queue" {
            let (status, text) = try_run(asked.arg("--json"));
            let read = serde_json::from_str::<Value>(&text);
            assert!(may_fail || status.success() && read.is_ok(), "postrail {command} --json is no JSON:\n{text}");
        }
        if *command == "export" {
            std::fs::write(&document, text).expect("a file can be written");
        }
    }
    let document = postrail.control_ok("GET", "/openapi.json", None);
    let seen = recorder.seen();
    let mut left: BTreeSet<String> = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys().map(|method| method.to_uppercase()) {
            let is_exempt = EXEMPT.iter().any(|(exempt, at, _)| *exempt == method && at == path);
            let is_seen = seen.iter().any(|(with, at)| *with == method && is_of(at, path));
            assert!(!(is_exempt && is_seen), "{method} {path} has a command: it needs no exemption");
            if !is_exempt && !is_seen {
                left.insert(format!("{method} {path}"));
            }
        }
    }
    assert!(left.is_empty(), "no command asks for: {left:#?}");
}

#[test]
fn a_real_bash_completes_commands_and_options() {
    let place = Place::new("cli-completions");
    let script = place.join("postrail.bash");
    std::fs::write(&script, run(Command::new(binary()).args(["completions", "bash"]))).expect("a file can be written");
    let completed = |line: &str| -> Vec<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let (last, before) = (words.last().copied().unwrap_or_default(), words.len().saturating_sub(2));
        let program = format!(
            "source {}; COMP_WORDS=({line}); COMP_CWORD={}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; \
             $(complete -p postrail | sed 's/.*-F \\([^ ]*\\).*/\\1/') postrail '{last}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.len() - 1,
            words[before],
        );
        let text = run(Command::new("bash").args(["--norc", "-c", &program]));
        text.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(completed("postrail ten"), ["tenant"]);
    assert_eq!(completed("postrail tenant re"), ["remove"]);
    assert!(completed("postrail up --etcd-").contains(&"--etcd-ca".to_owned()));
    for shell in ["bash", "zsh", "fish"] {
        let text = run(Command::new(binary()).args(["completions", shell]));
        assert!(text.contains("suppression"), "{shell}");
        // Where the shell is there, it reads its own.
        if shell != "bash" && !try_run(Command::new("which").arg(shell)).0.success() {
            continue;
        }
        let file = place.join(shell);
        std::fs::write(&file, text).expect("a file can be written");
        run(Command::new(shell).arg("-n").arg(&file));
    }
}

#[test]
fn every_command_has_a_man_page_that_man_reads_without_a_complaint() {
    let place = Place::new("cli-man");
    let folder = place.join("man1");
    run(Command::new(binary()).arg("man").arg(&folder));
    let mut pages: Vec<_> = std::fs::read_dir(&folder).expect("the pages").flatten().map(|page| page.path()).collect();
    pages.sort();
    assert!(pages.len() > 40 && pages.contains(&folder.join("postrail-tenant-add.1")), "{pages:?}");
    for page in &pages {
        let text = std::fs::read_to_string(page).expect("a page");
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{}:\n{text}", page.display());
    }
    if Path::new("/usr/bin/man").exists() {
        for page in &pages {
            let mut man = Command::new("man");
            let (status, text) =
                try_run(man.args(["--warnings", "-l"]).arg(page).env("MANROFFSEQ", "").env("LC_ALL", "C.UTF-8"));
            assert!(status.success() && text.contains("postrail"), "{}: {text}", page.display());
            assert!(!text.contains("warning:"), "{}: {text}", page.display());
        }
    }
    if Path::new("/usr/bin/mandoc").exists() {
        for page in &pages {
            run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(page));
        }
    }
}
