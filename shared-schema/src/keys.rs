//! The whole key space of the configuration store.
//!
//! ```text
//! /postrail/<cluster>/                                 the root; all below is relative to it
//!   desired/head                                       revision and the next id of each kind; guards every change
//!   desired/operator                                   the hash of the operator's token
//!   desired/settings                                   what holds for the whole installation
//!   desired/<kind>/<id>                                one resource, JSON; routes by domain
//!   desired/pending                                    names the parts of a large change that is not at its places yet
//!   staged/<change>/<part>                             the writes of a large change
//!   published/chunks/<kind>/<bucket>/<hash>            records of one kind and bucket of ids; never changed
//!   published/manifest                                 the revision and the chunks that make it up
//!   published/advance                                  what leads from the manifest before to this one
//!   checks/<domain id>                                 what the last check of a domain's DNS records found, JSON
//!   hosts/<name>                                       a data plane that runs, JSON; under its lease
//!   holding/<host>                                     what a host says with each keepalive, JSON
//!   allocation/epoch                                   the last epoch; guards every change of grants
//!   allocation/grants/<host>                           the addresses that a host may use, JSON
//!   orders/<host>                                      what an operator has said of a host: drain, forget
//!   election/allocator                                 the control plane that writes grants; under its lease
//!   host-numbers/<number>                              the host whose data folder has it
//!   refused-hosts/<name>                               a data plane whose number is another's that runs, JSON; under its lease
//!   master-key-check                                   tells whether a host has the cluster's master key
//!   installation/<region>                              what tells this installation from others, to the ledger
//!   ledgers/<region>/<start>                           which ledger a control plane keeps, JSON; under its lease
//!   ledger/<region>                                    which ledger was the region's last, JSON
//!   election/leader                                    the URL of the control plane that reconciles; under its lease
//!   election/leader/<region>                           the same, of the hosts of a region
//! ```
//!
//! Invariants worth naming: a chunk's key names its content, so that a key that exists is right or damaged, and never
//! stale; a manifest is written in the transaction that writes what is desired, after every chunk that it names, and what
//! leads to it with it.
//! Absent here: values.

use std::fmt;

use crate::allocation::HostName;
use crate::ids::HostId;

/// The root of a cluster's keys. `cluster` is a slug.
pub fn root(cluster: &str) -> String {
    format!("/postrail/{cluster}/")
}

/// What operators want.
pub const DESIRED: &str = "desired/";
pub const HEAD: &str = "desired/head";
pub const OPERATOR: &str = "desired/operator";
pub const SETTINGS: &str = "desired/settings";
/// Beside desired state: a change that was too large for one transaction.
pub const PENDING: &str = "desired/pending";
pub const STAGED: &str = "staged/";
/// What checks of sending domains found: beside what is desired, so that a check is no change.
pub const CHECKS: &str = "checks/";
/// What data planes read.
pub const PUBLISHED: &str = "published/";
pub const MANIFEST: &str = "published/manifest";
pub const ADVANCE: &str = "published/advance";
pub const CHUNKS: &str = "published/chunks/";
pub const HOSTS: &str = "hosts/";
pub const HOLDING: &str = "holding/";
pub const ALLOCATION: &str = "allocation/";
pub const ALLOCATION_EPOCH: &str = "allocation/epoch";
pub const GRANTS: &str = "allocation/grants/";
pub const ORDERS: &str = "orders/";
pub const ALLOCATOR: &str = "election/allocator";
pub const HOST_NUMBERS: &str = "host-numbers/";
pub const REFUSED_HOSTS: &str = "refused-hosts/";
/// Tells whether a master key is that of the cluster, and nothing else about it.
pub const MASTER_KEY_CHECK: &str = "master-key-check";
/// What tells the ledgers of this installation from others: given once, 32 hexadecimal digits.
pub const INSTALLATION: &str = "installation/";
/// Which ledger each control plane that runs keeps.
pub const LEDGERS: &str = "ledgers/";
/// Which ledger was a region's last.
pub const LAST_LEDGER: &str = "ledger/";
/// In the file of a host by itself: its configuration was moved into etcd.
pub const MOVED: &str = "moved";
pub const LEADER: &str = "election/leader";

/// The key of who leads the control planes of a region; an empty name: of none.
pub fn leader(region: &str) -> String {
    if region.is_empty() { LEADER.to_owned() } else { format!("{LEADER}/{region}") }
}

/// The key of a resource.
pub fn resource(kind: &str, id: &impl fmt::Display) -> String {
    format!("{DESIRED}{kind}/{id}")
}

/// The key of a domain's last check.
pub fn check(domain: impl fmt::Display) -> String {
    format!("{CHECKS}{domain}")
}

/// The key of what tells the ledger of a region from others; empty: of the hosts without one.
pub fn installation(region: &str) -> String {
    format!("{INSTALLATION}{region}")
}

/// What the control planes of a region say of their ledgers; empty: those without one. Each start has a key of its own there.
pub fn ledgers(region: &str) -> String {
    format!("{LEDGERS}{region}/")
}

/// The key of which ledger was that of a region last; empty: of those without one.
pub fn last_ledger(region: &str) -> String {
    format!("{LAST_LEDGER}{region}")
}

/// The key of a data plane.
pub fn host(name: &str) -> String {
    format!("{HOSTS}{name}")
}

/// The key of whose a host's number is.
pub fn host_number(number: HostId) -> String {
    format!("{HOST_NUMBERS}{number}")
}

/// The key of a data plane whose number is another's.
pub fn refused_host(name: &str) -> String {
    format!("{REFUSED_HOSTS}{name}")
}

/// The key of what a host says.
pub fn holding(host: &HostName) -> String {
    format!("{HOLDING}{host}")
}

/// The key of what a host may use.
pub fn grants(host: &HostName) -> String {
    format!("{GRANTS}{host}")
}

/// The key of what an operator has said of a host.
pub fn order(host: &HostName) -> String {
    format!("{ORDERS}{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_lies_under_one_of_the_folders() {
        for (key, folder) in [
            (HEAD, DESIRED),
            (OPERATOR, DESIRED),
            (MANIFEST, PUBLISHED),
            (CHUNKS, PUBLISHED),
            (ADVANCE, PUBLISHED),
            (LEADER, "election/"),
        ] {
            assert!(key.starts_with(folder), "{key}");
        }
        assert_eq!(resource("tenants", &7), "desired/tenants/7");
        assert_eq!(root("main") + &host("a"), "/postrail/main/hosts/a");
    }
}
