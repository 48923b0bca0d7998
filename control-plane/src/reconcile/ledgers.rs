//! Looks whether the ledger of this process is that of its region, all the while it runs.
//!
//! It was at the start. A control plane that is cut off from etcd for longer than its lease may find another one with another
//! ledger when it is back: it then changes nothing and does not lead, and says so, until that one is gone. What
//! data planes have of that one's suppressions is replaced then. Activated by a
//! period; the word in the store is renewed by who holds it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::app::{App, AppError, LEDGER_LOOK, LedgerClaim, LedgerLook, LedgerUse};

/// Runs until `stop` is true, and gives the word back then.
pub(crate) async fn keep_ledger(app: Arc<App>, mut claim: LedgerClaim, mut stop: watch::Receiver<bool>) {
    let mut told: Option<LedgerUse> = None;
    while !*stop.borrow() {
        let looking = Arc::clone(&app);
        let look = move || {
            let found = claim.look();
            let taken = found.map_err(AppError::from).and_then(|found| take_over(&looking, &claim, found));
            (claim, taken)
        };
        let Ok((back, taken)) = tokio::task::spawn_blocking(look).await else { return };
        claim = back;
        match taken {
            Ok(other) if other != told => {
                match &other {
                    Some(other) => {
                        tracing::error!(
                            "another ledger than the region's: {other}; nothing is changed here until it ends"
                        );
                    }
                    None => tracing::info!("the ledger is that of the region again"),
                }
                told = other;
            }
            Ok(_) => {}
            // Where the store does not answer, what was known goes on: nothing can be changed then anyway.
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "which ledger counts is not known"),
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = sleep(LEDGER_LOOK) => {}
        }
    }
    let _ = tokio::task::spawn_blocking(move || claim.give_back()).await;
}

/// Takes over what a look has found. Where another ledger was in use meanwhile, data planes have its suppressions: ours are
/// announced before it is noted that ours is the region's, so that who is interrupted does it again.
fn take_over(app: &App, claim: &LedgerClaim, found: LedgerLook) -> Result<Option<LedgerUse>, AppError> {
    app.set_other_ledger(found.other.clone());
    if found.was_other {
        app.announce_suppressions()?;
        claim.keep()?;
    }
    Ok(found.other)
}
