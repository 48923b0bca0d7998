//! What runs beside the requests: taking journals into the ledger, publishing what another process wrote, checking the
//! DNS records of sending domains, and giving addresses to hosts.
//!
//! Each part is activated by a signal and by period, takes no input, and may run again at any time.

mod allocate;
mod domains;
mod journal;
mod publish;

pub use allocate::allocate;
pub(crate) use domains::check_domains;
pub(crate) use journal::{JournalGauges, pull_journals};
pub(crate) use publish::follow_store;
