//! Announces what the ledger has of suppressions, and was not announced by who wrote it: etcd was full or away, others' changes
//! came between, or the process ended.
//!
//! Activated by a period. What is announced costs one row of the ledger a look. Absent here: suppressions that nobody numbered
//! (`App::count_suppressions`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::mirror::blocking;
use super::outage::Outage;
use crate::app::App;

/// Runs until `stop` is true.
pub(super) async fn announce_suppressions(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut outage = Outage::new(OUTAGE);
    while !*stop.borrow() {
        match blocking(&app, App::announce_changed_suppressions).await {
            Ok(()) => outage.over(),
            Err(error) => outage.failed(&error),
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = sleep(PERIOD) => {}
        }
    }
}

const OUTAGE: &str = "whether hosts know of all suppressions is not known, and those that are new are not announced";
const PERIOD: Duration = Duration::from_secs(2);
