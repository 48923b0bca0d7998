//! The options of `completions` and `man`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap_complete::Shell;

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  postrail completions bash > /etc/bash_completion.d/postrail
  postrail completions zsh > /usr/local/share/zsh/site-functions/_postrail
  postrail completions fish > ~/.config/fish/completions/postrail.fish
  source <(postrail completions bash)       for this shell alone";

#[derive(ClapArgs, Debug)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct CompletionsOptions {
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

const MAN_EXAMPLES: &str = "\
Examples:
  postrail man /usr/local/share/man/man1
  postrail man . && man -l postrail-up.1";

#[derive(ClapArgs, Debug)]
#[command(after_help = MAN_EXAMPLES)]
pub(crate) struct ManOptions {
    /// Where to, made if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}
