//! `postrail completions` and `postrail man`: what shells and `man` know of the command line, from its own description.
//!
//! Both are commands of the program itself, so that a package makes them with the binary that it has built.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;
use crate::table;

/// Prints the completions of a shell.
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut text);
    Ok(std::io::stdout().lock().write_all(&text)?)
}

/// Writes a page for each command into `folder`.
pub(crate) fn man(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(Args::command(), folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    table::say(format_args!("man pages are in {}", folder.display()))?;
    Ok(())
}

const NAME: &str = "postrail";
