//! The options of `listener`.

use clap::{Args as ClapArgs, Subcommand};

const LISTENER_EXAMPLES: &str = "\
Examples:
  postrail listener add submission --protocol smtp --address 0.0.0.0:587 --tls required --certificate mail.example.org
  postrail listener add office --protocol smtp --address 10.0.0.5:25 --host mta-1 --network 10.0.0.0/8
  postrail listener add api --protocol rest --address 0.0.0.0:443 --connections-per-client 50
  postrail listener status

A host listens on the listeners that are for it and on nothing else; its own options (--smtp, --smtps, --rest of
`postrail up`) hold while there is none. Changes are in effect at once, without a restart.";

#[derive(Subcommand, Debug)]
#[command(after_help = LISTENER_EXAMPLES)]
pub(crate) enum ListenerCommand {
    /// Listen at an address: `postrail listener add submission --protocol smtp --address 0.0.0.0:587`
    Add(ListenerValue),
    /// Replace all of it but its name: `postrail listener set submission --protocol smtp --address 0.0.0.0:25`
    Set(ListenerValue),
    /// Every listener: `postrail listener list`
    List,
    /// One listener: `postrail listener show submission`
    Show { name: String },
    /// Listen there no more; sessions finish their mail: `postrail listener remove submission`
    Remove { name: String },
    /// What the hosts listen on now, and what they cannot: `postrail listener status`
    Status,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ListenerValue {
    pub(crate) name: String,
    /// smtp, smtps (TLS from the start) or rest
    #[arg(long)]
    pub(crate) protocol: String,
    /// Address of the hosts, and port
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) address: String,
    /// Host that has it (repeatable) [default: all]
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// Region whose hosts have it [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// off, offered or required [default: offered, of smtps required]
    #[arg(long)]
    pub(crate) tls: Option<String>,
    /// Oldest version of TLS: 1.2 or 1.3 [default: 1.2]
    #[arg(long, value_name = "VERSION")]
    pub(crate) minimum_version: Option<String>,
    /// Files certificates/NAME.pem and .key in each host's data folder [default: the host's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) certificate: Option<String>,
    /// Where clients may come from, such as 192.0.2.0/24 (repeatable) [default: anywhere]
    #[arg(long = "network", value_name = "CIDR")]
    pub(crate) networks: Vec<String>,
    /// Connections at once, on each host
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u32>,
    /// Connections at once of one client, on each host
    #[arg(long, value_name = "N")]
    pub(crate) connections_per_client: Option<u32>,
    /// Octets of a message
    #[arg(long, value_name = "OCTETS")]
    pub(crate) message_bytes_max: Option<u32>,
    /// How long a client may say nothing
    #[arg(long, value_name = "SECONDS")]
    pub(crate) idle: Option<u32>,
}
