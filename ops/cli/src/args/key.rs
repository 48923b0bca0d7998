//! `postrail key`: the master key that opens what is sealed.

use clap::{Args as ClapArgs, Subcommand};

use super::ApiOptions;

const KEY_EXAMPLES: &str = "\
Another master key, without a break:
  1. postrail key next                 on the host of a control plane: makes master.key.next in its data folder
  2. scp -p master.key.next HOST:…     to the data folder of every other host; then restart each, one after the other
  3. postrail key rotate               wraps every sealed key anew; may be cut short and started again
  4. restart each host once more when it suits you: it takes the next key as its own, and keeps the former one as
     master.key.former. Delete that when every host has been restarted.

Where the keys come from the environment (POSTRAIL_MASTER_KEY, base64), the next one is POSTRAIL_MASTER_KEY_NEXT, and
step 4 is yours: the next becomes POSTRAIL_MASTER_KEY, the current one POSTRAIL_MASTER_KEY_FORMER.";

/// `key`, and how to reach the control API.
#[derive(ClapArgs, Debug)]
#[command(after_help = KEY_EXAMPLES)]
pub(crate) struct KeyOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KeyCommand {
    /// Make the master key that is to be the next, in the data folder: `postrail key next`
    Next,
    /// Wrap every sealed key by the next master key: `postrail key rotate`
    Rotate,
}
