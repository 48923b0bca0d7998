//! Real clients and judges that run in Python or Node, from the packages that `ops/test` installs.
//!
//! Every script is in `stories/clients`, takes one JSON document from a file and prints one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::child::try_run;
use crate::place::{Place, target};

/// A program of the stories' Python environment.
pub fn python_program(name: &str) -> PathBuf {
    target().join("venv/bin").join(name)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stories/clients").join(name)
}

/// Runs a Python script with a task and gives what it prints.
pub fn python(place: &Place, name: &str, task: &Value) -> Value {
    run(Command::new(python_program("python")).arg(script(name)), place, task.to_string().as_bytes())
}

/// Runs a Python script on octets, a message as a rule, and gives what it prints.
pub fn python_on(place: &Place, name: &str, content: &[u8]) -> Value {
    run(Command::new(python_program("python")).arg(script(name)), place, content)
}

/// Sends mails with Nodemailer, all at once: one result a mail.
pub fn nodemailer(place: &Place, transport: Value, mails: Value) -> Vec<Value> {
    let task = json!({"folder": target().join("node"), "transport": transport, "mails": mails});
    let results = run(Command::new("node").arg(script("nodemailer.js")), place, task.to_string().as_bytes());
    results.as_array().expect("a list of results").clone()
}

/// A message as Python's email package reads it.
pub struct Judged(Value);

/// Judges a message.
pub fn judge(place: &Place, content: &[u8]) -> Judged {
    Judged(run(Command::new(python_program("python")).arg(script("judge.py")), place, content))
}

fn run(command: &mut Command, place: &Place, input: &[u8]) -> Value {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let file = place.join(&format!("task-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&file, input).expect("a file can be written");
    let (status, text) = try_run(command.arg(&file));
    assert!(status.success(), "{command:?} ended with {status}:\n{text}");
    let answer = serde_json::from_str(&text).with_context(|| format!("{command:?} printed {text}"));
    answer.expect("the script prints JSON")
}

impl Judged {
    /// All values of a field, decoded.
    pub fn all(&self, name: &str) -> Vec<String> {
        let rows = self.0["headers"].as_array().into_iter().flatten();
        let named = rows.filter(|row| row[0].as_str().is_some_and(|have| have.eq_ignore_ascii_case(name)));
        named.map(|row| row[1].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The only value of a field, decoded.
    pub fn one(&self, name: &str) -> String {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} occurs once: {all:?}");
        all.into_iter().next().unwrap_or_default()
    }

    /// The content types of all parts, in order.
    pub fn types(&self) -> Vec<&str> {
        self.parts().iter().map(|part| part["type"].as_str().unwrap_or_default()).collect()
    }

    /// All parts, containers included.
    pub fn parts(&self) -> &[Value] {
        self.0["parts"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The text of the first part of this type.
    pub fn text(&self, kind: &str) -> String {
        let part = self.parts().iter().find(|part| part["type"] == kind);
        let text = part.unwrap_or_else(|| panic!("there is a part of {kind}: {}", self.0))["text"].as_str();
        text.unwrap_or_default().replace("\r\n", "\n")
    }

    /// The octets of the attachment of this name.
    pub fn file(&self, name: &str) -> Vec<u8> {
        let part = self.parts().iter().find(|part| part["name"] == name);
        let text = part.unwrap_or_else(|| panic!("there is a file {name}: {}", self.0))["base64"].as_str();
        STANDARD.decode(text.unwrap_or_default()).expect("the judge prints base64")
    }

    /// Panics if the reader found anything wrong.
    pub fn has_no_defects(&self) {
        let parts = self.parts().iter().filter_map(|part| part["defects"].as_array());
        let defects: Vec<&Value> = parts.chain(self.0["defects"].as_array()).flatten().collect();
        assert!(defects.is_empty(), "{defects:?}");
    }
}
