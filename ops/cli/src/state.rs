//! `postrail export`, `plan` and `apply`: the whole of what an installation is to be, as one document.
//!
//! Invariants worth naming: what is applied is what was shown, or nothing: the state must still be the one that was planned
//! on. Absent here: what a document means, which the API says.

mod difference;
mod document;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::args::{ApplyOptions, ExportOptions, PlanOptions};
use crate::client::Api;
use crate::table;

pub(crate) use difference::{line, lines};

/// Exit status of `plan` where something would change.
const DIFFERS: u8 = 3;

/// Prints the document.
pub(crate) fn export(data: &Path, options: &ExportOptions) -> Result<()> {
    let api = Api::open(&options.api, data)?;
    let query: &[(&str, &str)] = if options.secrets { &[("secrets", "true")] } else { &[] };
    let document = api.get(&["state"], query)?;
    if api.wants_json() {
        return Ok(table::print_json(&document)?);
    }
    Ok(io::stdout().lock().write_all(document::write(&document).as_bytes())?)
}

/// Shows what the document would change.
pub(crate) fn plan(data: &Path, options: &PlanOptions) -> Result<ExitCode> {
    let api = Api::open(&options.api, data)?;
    let planned = api.post_large(&["state", "plan"], &document::read(&options.file)?)?;
    if api.wants_json() {
        table::print_json(&planned)?;
    } else {
        print_plan(&planned)?;
    }
    Ok(match (planned["applicable"].as_bool(), count(&planned)) {
        (Some(true), 0) => ExitCode::SUCCESS,
        (Some(true), _) => ExitCode::from(DIFFERS),
        _ => ExitCode::FAILURE,
    })
}

/// Shows what the document would change, and makes it so.
pub(crate) fn apply(data: &Path, options: &ApplyOptions) -> Result<()> {
    let api = Api::open(&options.plan.api, data)?;
    let document = document::read(&options.plan.file)?;
    let planned = api.post_large(&["state", "plan"], &document)?;
    if !api.wants_json() {
        print_plan(&planned)?;
    }
    if planned["applicable"] != true {
        if api.wants_json() {
            table::print_json(&planned)?;
        }
        bail!("a finding is an error, so nothing was changed");
    }
    if count(&planned) > 0 && !options.yes {
        confirm(&options.plan.file)?;
    }
    let applied = api.put_large(&["state"], planned["etag"].as_str().unwrap_or_default(), &document)?;
    if api.wants_json() {
        return Ok(table::print_json(&applied)?);
    }
    let said = if count(&applied) == 0 { "nothing to change at" } else { "applied as" };
    Ok(writeln!(io::stdout().lock(), "{said} revision {}", applied["revision"])?)
}

/// Asks whether to go on.
fn confirm(file: &Path) -> Result<()> {
    if file == Path::new("-") || !io::stdin().is_terminal() {
        bail!("nobody is there to ask, so nothing was changed: say --yes to apply");
    }
    let mut out = io::stdout().lock();
    write!(out, "apply these changes? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Resources that differ.
fn count(planned: &Value) -> u64 {
    ["added", "changed", "removed"].iter().filter_map(|name| planned[name].as_u64()).sum()
}

fn print_plan(planned: &Value) -> io::Result<()> {
    io::stdout().lock().write_all(difference::plan_text(planned).as_bytes())
}
