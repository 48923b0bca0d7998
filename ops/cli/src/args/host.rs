//! `postrail host`.

use clap::Subcommand;

const DRAIN_EXAMPLES: &str = "\
Examples:
  postrail host drain mx3                 asks for its addresses, and returns
  postrail host drain mx3 --wait          returns when other hosts have them, five minutes at most
  postrail host resume mx3                it may have addresses again

Take the host out of what distributes submissions first: it goes on accepting, and what it accepts waits there until it
has addresses again. Exit status 1 where addresses are left after --wait.";

const FORGET_EXAMPLES: &str = "\
Examples:
  postrail host forget mx3

This is a promise: what a host that was forgotten still uses, another will use at the same time. Turn it off before.
A host that is alive is refused. One that is started again under the same name is a new host.";

#[derive(Subcommand, Debug)]
pub(crate) enum HostCommand {
    /// The hosts, what they are about, and how many addresses each has: `postrail host list`
    List,
    /// A host with its addresses, and why each is there: `postrail host show mx1`
    Show { name: String },
    /// Move its addresses to other hosts, each after what is in flight on it
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        name: String,
        /// Return when it has none any more, or after so many seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300",
            value_parser = clap::value_parser!(u64).range(1..=86_400))]
        wait: Option<u64>,
    },
    /// Let it have addresses again: `postrail host resume mx3`
    Resume { name: String },
    /// Vouch that it is off for good, so that also what is fixed to it passes on
    #[command(after_help = FORGET_EXAMPLES)]
    Forget { name: String },
}
