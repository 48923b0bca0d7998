//! An installation as one document: the chapter's own commands, a change in between, and a copy of it all.

use std::collections::BTreeMap;
use std::process::Command;

use postrail_tests::child::try_run;
use postrail_tests::place::Place;
use postrail_tests::postrail::{Postrail, binary};
use postrail_tests::receiver::Receiver;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::{ZONE, job, job_id};

const CHAPTER: &str = include_str!("../../docs/operating/declarative.md");

/// Runs a line of a shell as an operator in `place`: its output and exit status.
fn shell(postrail: &Postrail, place: &Place, line: &str) -> (String, i32) {
    let program = binary();
    let folder = program.parent().expect("the binary is in a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(place.join(".")).env("PATH", path);
    command.env("POSTRAIL_DATA", postrail.data()).env("POSTRAIL_API", format!("http://{}", postrail.api));
    let (status, text) = try_run(&mut command);
    (text, status.code().unwrap_or(-1))
}

/// The fenced blocks of the chapter, with their language.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut parts = CHAPTER.split("```");
    let mut blocks = Vec::new();
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        blocks.push(block.split_once('\n').expect("a block has a language"));
    }
    blocks
}

#[test]
fn the_chapter_about_documents_does_what_it_says() {
    let place = Place::new("declarative");
    let postrail = Postrail::start_with(&place, &["--shards", "1", "--resolver", "127.0.0.1:9"]);
    let mut commands = 0;
    let mut last = 0;
    for (language, text) in blocks() {
        if language == "toml" {
            std::fs::write(place.join("fleet.toml"), text).expect("a file");
        }
        let dialogue = if language == "console" { text } else { "" };
        for turn in dialogue.split("$ ").filter(|turn| !turn.is_empty()) {
            let (line, printed) = turn.split_once('\n').expect("a command ends its line");
            let (found, status) =
                if line == "echo $?" { (format!("{last}\n"), 0) } else { shell(&postrail, &place, line) };
            assert_eq!(found, printed, "$ {line}");
            (last, commands) = (status, commands + 1);
        }
    }
    assert!(commands >= 8, "the chapter has its commands: {commands}");
}

#[test]
fn a_document_that_cannot_be_applied_says_why_and_changes_nothing() {
    let place = Place::new("declarative-errors");
    let postrail = Postrail::start_with(&place, &["--shards", "1", "--resolver", "127.0.0.1:9"]);
    let write = |text: &str| std::fs::write(place.join("f.toml"), text).expect("a file");
    let table = [
        ("[[tenants]\n", "f.toml is not TOML"),
        ("[[tenants]]\nname = 'a'\nwieght = 1\n", "/tenants/0/wieght: there is no `wieght` here"),
        ("[[pools]]\nname = 'default'\nmembers = []\n", "error    pool/default: it holds no source; add one"),
        ("tenants = []\n", "credential/default: its tenant does not exist"),
    ];
    for (text, said) in table {
        write(text);
        for command in ["plan", "apply --yes"] {
            let (found, status) = shell(&postrail, &place, &format!("postrail {command} -f f.toml"));
            assert!(status == 1 && found.contains(said), "{command} of {text}: {status} {found}");
        }
    }
    write("[[tenants]]\nname = 'default'\nweight = 2\n");
    let (found, status) = shell(&postrail, &place, "postrail apply -f f.toml < /dev/null");
    assert!(status == 1 && found.contains("say --yes"), "{found}");
    assert_eq!(postrail.control_ok("GET", "/readyz", None)["revision"], 1);
}

#[test]
fn an_installation_that_is_imported_accepts_its_old_keys_and_signs_with_them() {
    let place = Place::new("declarative-import");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let old = Postrail::start_at(&place, &place.join("old"), &["--resolver", &resolver, "--shards", "1"]);
    old.route("*", receiver.address().port());
    let (_, status) = shell(&old, &place, "postrail export --secrets > backup.toml");
    assert_eq!(status, 0);

    // Another host, with the master key and nothing else.
    let folder = place.join("new");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::copy(old.data().join("master.key"), folder.join("master.key")).expect("the master key is copied");
    let mut new = Postrail::start_at(&place, &folder, &["--resolver", &resolver, "--shards", "1"]);
    let (found, status) = shell(&new, &place, "postrail import -f backup.toml --yes");
    assert_eq!(status, 0, "{found}");
    let exports: BTreeMap<_, _> = [("old", &old), ("new", &new)]
        .into_iter()
        .map(|(name, at)| (name, shell(at, &place, "postrail export --secrets").0))
        .collect();
    // The number of the last key is not the same: the new one has made keys of its own at its first start.
    let but_last_key =
        |text: &str| text.lines().filter(|line| !line.starts_with("key = ")).collect::<Vec<_>>().join("\n");
    assert_eq!(but_last_key(&exports["old"]), but_last_key(&exports["new"]));
    new.settled_configuration();
    new.secret.clone_from(&old.secret);
    let id = job_id(&new.submit(&job("someone@receiver.test")));
    new.wait_for_state(&id, "delivered");
    let selectors = new.control_ok("GET", "/v2/domains/sender.test", None);
    let keys = |domain: &serde_json::Value| {
        domain["keys"].as_array().map(|keys| keys.iter().map(|key| key["public_key"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(keys(&selectors), keys(&old.control_ok("GET", "/v2/domains/sender.test", None)));
    assert_ne!(json!(old.secret), json!(""));

    // On an installation with another master key the sealed keys are refused, not silently unusable.
    let foreign = Postrail::start_at(&place, &place.join("foreign"), &["--resolver", &resolver, "--shards", "1"]);
    let (found, status) = shell(&foreign, &place, "postrail import -f backup.toml --yes");
    assert!(status == 1 && found.contains("does not open with the master key"), "{found}");
}
