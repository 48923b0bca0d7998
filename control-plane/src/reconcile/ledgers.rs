//! Looks whether the ledger of this process is that of its region, all the while it runs.
//!
//! It was at the start. A control plane that is cut off from etcd for longer than its lease may find another one with another
//! ledger when it is back: it then changes nothing and does not lead, and says so, until that one has ended. What data planes
//! have of that one's suppressions is replaced then. Activated by a period; the word in the store is renewed by who holds it.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::app::{App, AppError, LEDGER_LOOK, LedgerClaim, LedgerLook, OtherLedger};

/// Runs until `stop` is true, and takes the word back then.
pub(crate) async fn keep_ledger(app: Arc<App>, mut claim: LedgerClaim, mut stop: watch::Receiver<bool>) {
    let mut told: Option<OtherLedger> = None;
    // Whether data planes may have another ledger's suppressions.
    let mut is_owed = false;
    while !*stop.borrow() {
        let (looking, runtime, mut owed) = (Arc::clone(&app), Handle::current(), is_owed);
        let look = move || {
            let found = runtime.block_on(claim.look(Instant::now()));
            let taken = found.and_then(|found| take_over(&looking, found, &mut owed));
            (claim, owed, taken)
        };
        let Ok((back, owed, taken)) = tokio::task::spawn_blocking(look).await else { return };
        (claim, is_owed) = (back, owed);
        match taken {
            Ok(other) if other != told => {
                match &other {
                    Some(other) => {
                        tracing::error!("the region has another ledger, so nothing is changed here: {other}");
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
    let _ = tokio::task::spawn_blocking(move || claim.withdraw()).await;
}

/// Takes over what a look has found. Where another ledger was in use meanwhile, data planes have its suppressions: ours are
/// announced, which a start does anyway.
fn take_over(app: &App, found: LedgerLook, is_owed: &mut bool) -> Result<Option<OtherLedger>, AppError> {
    app.set_ledger_look(found.clone());
    match found {
        LedgerLook::Other(other) => Ok(Some(other)),
        LedgerLook::Ours { is_new, .. } => {
            *is_owed |= is_new;
            if *is_owed {
                app.announce_suppressions()?;
                *is_owed = false;
            }
            Ok(None)
        }
    }
}
