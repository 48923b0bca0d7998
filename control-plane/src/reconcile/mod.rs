//! What runs beside the requests.
//!
//! ```text
//! every control plane   follow_store: what others changed      follow_hosts: which data planes run
//!                       keep_ledger: whether its ledger is that of its region
//! the leader alone      pull_journals: events into the ledger  collect_chunks: what no publication names any more
//!                       check_domains: what DNS says of sending domains
//!                       tell_quotas: what hosts have accepted of tenants with a quota
//!                       mirror_suppressions: in a region, those of tenants without one
//!                       announce_suppressions: those that are in the ledger, and were not announced
//! the allocator         allocate: which host may use which address; it has a lease of its own
//! ```
//!
//! Each part is activated by a signal and by period, takes no input, and may run again at any time. That one leads keeps
//! work from being done twice; that nothing is stored twice is kept by guards and cursors, whoever leads.

mod allocate;
mod announce;
mod collect;
mod domains;
mod hosts;
mod journal;
mod lead;
mod ledgers;
mod mirror;
mod outage;
mod publish;
mod quotas;

pub use allocate::allocate;
pub(crate) use allocate::boottime;
pub(crate) use hosts::follow_hosts;
pub(crate) use journal::JournalGauges;
pub(crate) use lead::lead;
pub(crate) use ledgers::keep_ledger;
pub(crate) use publish::follow_store;
