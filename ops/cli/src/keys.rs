//! `postrail key`: makes the next master key, and asks the control API to go over to it, step by step.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use postrail_control_plane::make_next_master_key;
use serde_json::{Value, json};

use crate::args::KeyCommand;
use crate::client::Api;
use crate::table;

/// `api` is opened only for what needs it.
pub(crate) fn run(api: impl FnOnce() -> Result<Api>, data: &Path, command: &KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Next => {
            let (path, id) = make_next_master_key(data)?;
            let path = path.display();
            let text = format!(
                "{path} is the next master key, {id}.\nCopy it to the data folder of every host, restart each of them, then: postrail key rotate\n"
            );
            Ok(io::stdout().lock().write_all(text.as_bytes())?)
        }
        KeyCommand::Rotate => rotate(&api()?),
    }
}

fn rotate(api: &Api) -> Result<()> {
    let mut wrapped = 0;
    loop {
        let step = api.post(&["master-key", "rotate"], &[], &json!({}))?;
        let count = |name: &str| step[name].as_u64().with_context(|| format!("the answer has no {name}"));
        wrapped += count("wrapped")?;
        let left = count("left")?;
        if left > 0 {
            if !api.wants_json() {
                writeln!(io::stderr(), "{wrapped} domains done, {left} left")?;
            }
            continue;
        }
        let done: Value = json!({"master_key": step["master_key"], "wrapped": wrapped});
        if api.wants_json() {
            return Ok(table::print_json(&done)?);
        }
        let id = step["master_key"].as_str().unwrap_or_default();
        let text = format!(
            "Everything is sealed by the master key {id} ({wrapped} domains now).\nHosts take it as their own when they are restarted; the former one stays as master.key.former until you delete it.\n"
        );
        return Ok(io::stdout().lock().write_all(text.as_bytes())?);
    }
}
