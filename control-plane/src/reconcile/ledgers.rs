//! Looks whether the ledger of this process is that of its region, all the while it runs.
//!
//! It was at the start. A control plane that is cut off from etcd for longer than its lease may find another one with another
//! ledger when it is back: it then changes nothing and does not lead, and says so, until that one is gone. Activated by a
//! period; the word in the store is renewed by who holds it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::app::{App, LEDGER_LOOK, LedgerClaim, LedgerUse};

/// Runs until `stop` is true, and gives the word back then.
pub(crate) async fn keep_ledger(app: Arc<App>, mut claim: LedgerClaim, mut stop: watch::Receiver<bool>) {
    let mut told: Option<LedgerUse> = None;
    while !*stop.borrow() {
        let look = move || {
            let found = claim.other();
            (claim, found)
        };
        let Ok((back, found)) = tokio::task::spawn_blocking(look).await else { return };
        claim = back;
        // Where the store does not answer, what was known goes on: nothing can be changed then anyway.
        if let Ok(other) = found
            && other != told
        {
            match &other {
                Some(other) => {
                    tracing::error!("another ledger than the region's: {other}; nothing is changed here until it ends");
                }
                None => tracing::info!("the ledger is that of the region again"),
            }
            app.set_other_ledger(other.clone());
            told = other;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = sleep(LEDGER_LOOK) => {}
        }
    }
    let _ = tokio::task::spawn_blocking(move || claim.give_back()).await;
}
