//! `postrail host`.

use clap::Subcommand;

const DRAIN_EXAMPLES: &str = "\
Examples:
  postrail host drain mx3                 begins, and returns; `host show mx3` tells how far it is
  postrail host drain mx3 --wait          returns when mx3 may be stopped, in an hour at most
  postrail host resume mx3                it may have addresses again

Its addresses go to other hosts of its region, and then the mail that waits there. Take the host out of what distributes
submissions first: it goes on accepting, and what it accepts has to move, too. Ctrl-C ends the waiting and not the drain.
Exit status 1 where it is not empty after --wait.";

const FORGET_EXAMPLES: &str = "\
Examples:
  postrail host forget mx3

This is a promise: what a host that was forgotten still uses, another will use at the same time. Turn it off before.
A host that is alive is refused. One that is started again under the same name is a new host.";

#[derive(Subcommand, Debug)]
pub(crate) enum HostCommand {
    /// The hosts, what they are about, what each has, and whether it may be stopped: `postrail host list`
    List,
    /// A host with its addresses, and why each is there: `postrail host show mx1`
    Show { name: String },
    /// Move its addresses and the mail that waits there to other hosts; it then accepts no mail
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        name: String,
        /// Return when it is safe to stop, or after so many seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "3600",
            value_parser = clap::value_parser!(u64).range(1..=86_400))]
        wait: Option<u64>,
    },
    /// Let it have addresses and accept mail again: `postrail host resume mx3`
    Resume { name: String },
    /// Vouch that it is off for good, so that also what is fixed to it passes on
    #[command(after_help = FORGET_EXAMPLES)]
    Forget { name: String },
}
