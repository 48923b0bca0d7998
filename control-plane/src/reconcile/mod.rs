//! What runs beside the requests: taking journals into the ledger, publishing what another process wrote, and checking the
//! DNS records of sending domains.
//!
//! Each part is activated by a signal and by period, takes no input, and may run again at any time.

mod domains;
mod journal;
mod publish;

pub(crate) use domains::check_domains;
pub(crate) use journal::{JournalGauges, pull_journals};
pub(crate) use publish::follow_store;
