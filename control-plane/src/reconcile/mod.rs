//! What runs beside the requests: taking journals into the ledger, and publishing what another process wrote.
//!
//! Each part is activated by a signal and by period, takes no input, and may run again at any time.

mod journal;
mod publish;

pub(crate) use journal::{JournalGauges, pull_journals};
pub(crate) use publish::follow_store;
