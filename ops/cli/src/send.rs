//! `postrail send`: one mail by the submission API, from the command line.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use postrail_schema::limits::MESSAGE_BYTES_MAX;
use serde_json::{Value, json};

use crate::args::SendOptions;
use crate::client;
use crate::table;

/// The variable that holds the secret where no file is named.
const SECRET_VARIABLE: &str = "POSTRAIL_SECRET";

pub(crate) fn run(options: &SendOptions) -> Result<()> {
    let (content_type, content) = content(options)?;
    let url = format!("{}/v2/jobs", options.rest.trim_end_matches('/'));
    let mut request = client::client()?.post(url).basic_auth(&options.username, Some(secret(options)?)).json(&job(
        options,
        content_type,
        &content,
    ));
    if let Some(key) = &options.idempotency_key {
        request = request.header("Idempotency-Key", key);
    }
    let answer = client::answer(request, "is it running? Start it with: postrail up")?;
    if options.json {
        table::print_json(&answer)?;
    } else {
        print(&answer)?;
    }
    Ok(())
}

fn secret(options: &SendOptions) -> Result<String> {
    if let Some(file) = &options.secret_file {
        let secret = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(secret.trim().to_owned());
    }
    match std::env::var(SECRET_VARIABLE) {
        Ok(secret) if !secret.is_empty() => Ok(secret),
        _ => bail!("no secret: put it in a file and name that by --secret-file, or set {SECRET_VARIABLE}"),
    }
}

fn content(options: &SendOptions) -> Result<(&'static str, String)> {
    if let Some(file) = &options.html {
        let html = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(("text/html", html));
    }
    if let Some(text) = &options.text {
        return Ok(("text/plain", text.clone()));
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MESSAGE_BYTES_MAX as u64 + 1).read_to_string(&mut text);
    read.context("the text on standard input is not UTF-8")?;
    if text.len() > MESSAGE_BYTES_MAX {
        bail!("the text on standard input is longer than {MESSAGE_BYTES_MAX} octets");
    }
    Ok(("text/plain", text))
}

fn job(options: &SendOptions, content_type: &str, content: &str) -> Value {
    let recipients: Vec<Value> = options
        .to
        .iter()
        .map(|address| {
            let mut recipient = json!({"mail": {"to": [{"email": address}]}});
            if let Some(reference) = &options.reference {
                recipient["reference"] = json!(reference);
            }
            recipient
        })
        .collect();
    json!({
        "subject": {"content": options.subject},
        "body": {"contentType": content_type, "content": content},
        "recipients": recipients,
        "mail": {"from": {"email": options.from}, "mimeFrom": {"email": options.from}},
    })
}

fn print(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let text = |pointer: &str| answer.pointer(pointer).map(table::plain).unwrap_or_default();
    writeln!(out, "{} {}", text("/meta/state/type").to_lowercase(), text("/meta/jobId"))?;
    for recipient in answer.pointer("/content/recipients").and_then(Value::as_array).into_iter().flatten() {
        for kind in ["to", "cc", "bcc"] {
            let addresses = recipient.pointer(&format!("/mail/{kind}")).and_then(Value::as_array);
            for address in addresses.into_iter().flatten() {
                let refusal = address.pointer("/validationResult").map(table::plain);
                let email = address.get("email").map(table::plain).unwrap_or_default();
                writeln!(out, "  {email}  {}", refusal.unwrap_or_else(|| "accepted".to_owned()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn each_recipient_has_an_entry_of_its_own() {
        let line =
            ["postrail", "send", "--username", "u", "--from", "a@x.test", "--to", "b@y.test", "--to", "c@y.test"];
        let args =
            Args::try_parse_from(line.into_iter().chain(["--subject", "s", "--reference", "r1"])).expect("parses");
        let Command::Send(options) = args.command else { panic!("send") };
        let job = job(&options, "text/plain", "hi");
        assert_eq!(job["recipients"].as_array().map(Vec::len), Some(2));
        assert_eq!(job["recipients"][1]["mail"]["to"][0]["email"], "c@y.test");
        assert_eq!(job["recipients"][0]["reference"], "r1");
    }
}
