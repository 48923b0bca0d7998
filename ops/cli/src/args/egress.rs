//! The options of what mail leaves by: `source`, `pool`, `route`.

use std::net::IpAddr;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum SourceCommand {
    /// Add an address to send from: `postrail source add out1 --address 192.0.2.10 --ehlo out1.example.org`
    Add(SourceValue),
    /// Give it another address, name or host; what is not said is as if it were new:
    /// `postrail source set out1 --address 192.0.2.11 --ehlo out1.example.org`
    Set(SourceValue),
    /// Sources with address and EHLO name: `postrail source list`
    List,
    /// One source: `postrail source show out1`
    Show { name: String },
    /// Remove a source that no pool holds: `postrail source remove out1`
    Remove { name: String },
}

#[derive(Subcommand, Debug)]
pub(crate) enum PoolCommand {
    /// Make a pool: `postrail pool add bulk --source out1 --source out2=3 --class marketing`
    Add(PoolValue),
    /// Give it other sources and classes; what is not said is as if it were new:
    /// `postrail pool set bulk --source out2 --source out3`
    Set(PoolValue),
    /// Pools with their sources and weights: `postrail pool list`
    List,
    /// One pool: `postrail pool show bulk`
    Show { name: String },
    /// Remove a pool that no domain needs: `postrail pool remove bulk`
    Remove { name: String },
}

#[derive(Subcommand, Debug)]
pub(crate) enum RouteCommand {
    /// Send a domain's mail elsewhere: `postrail route add example.net --to relay.example.org --port 2525`
    Add {
        /// The recipient domain, or `*` for all that no other route names
        domain: String,
        /// Host or domain to send to [default: the recipient domain's own MX]
        #[arg(long, value_name = "HOST")]
        to: Option<String>,
        #[arg(long, default_value_t = 25)]
        port: u16,
        /// Allow hosts at loopback, private or own addresses
        #[arg(long)]
        allow_private: bool,
    },
    /// Routes and where they lead: `postrail route list`
    List,
    /// One route: `postrail route show example.net`
    Show { domain: String },
    /// Remove a route: the MX of the domain counts again: `postrail route remove example.net`
    Remove { domain: String },
}

#[derive(ClapArgs, Debug)]
pub(crate) struct SourceValue {
    pub(crate) name: String,
    /// The address to bind; 0.0.0.0 or :: for the host's choice
    #[arg(long)]
    pub(crate) address: IpAddr,
    /// The name that it greets with
    #[arg(long)]
    pub(crate) ehlo: String,
    /// In a fleet: the interface of its host that the address is put on [default: the first --nic of the host]
    #[arg(long, value_name = "NAME", conflicts_with = "routed")]
    pub(crate) nic: Option<String>,
    /// In a fleet: the network brings the address to its host, so nothing is put on an interface
    #[arg(long)]
    pub(crate) routed: bool,
    /// In a fleet: the one host that may have the address; it keeps it while etcd is away
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// In a fleet: what a host must have announced by its --capability to have the address (repeatable)
    #[arg(long, value_name = "WORD")]
    pub(crate) capability: Vec<String>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct PoolValue {
    pub(crate) name: String,
    /// A source, with its weight after `=` (repeatable)
    #[arg(long = "source", value_name = "SOURCE[=WEIGHT]", required = true)]
    pub(crate) sources: Vec<String>,
    /// The only tenant that may use it [default: all]
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// A class of mail that it carries: transactional, person_to_person, marketing (repeatable) [default: all]
    #[arg(long = "class", value_name = "CLASS")]
    pub(crate) classes: Vec<String>,
}
