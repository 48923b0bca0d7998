//! Keeps the copy of the suppressions of tenants without a region, in a region.
//!
//! ```text
//! announced version changes, or a minute has passed -> stretch by stretch: here -> home -> into the ledger
//!     all through -> the copy is whole; other addresses than before -> announced, and data planes take the list
//! ```
//!
//! Activated by the version of suppressions, which every change anywhere raises, and by period. What it announces itself
//! activates it once more, finds nothing new, and settles.
//!
//! Invariants worth naming: the home is asked one thing at a time, and is left alone for at least as long as it was asked;
//! what is in the ledger is announced, also where the process that wrote it ended before it could.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::outage::Outage;
use crate::app::{App, AppError, FleetAccess, Home, HomeClient};

/// Runs until `stop` is true.
pub(super) async fn mirror_suppressions(app: Arc<App>, access: FleetAccess, mut stop: watch::Receiver<bool>) {
    let mut mirror = Mirror::new();
    while !*stop.borrow() {
        let begun = Instant::now();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = mirror.look(&app, &access) => {}
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep(PAUSE.max(begun.elapsed())) => {}
        }
    }
    // Who leads next says it.
    app.set_mirror_trouble(None);
}

struct Mirror {
    outage: Outage,
    /// The version of suppressions that was announced when the copy was looked through last.
    seen: Option<u64>,
    looked: Instant,
    /// Whether what is in the ledger is to be announced.
    is_owing: bool,
}

impl Mirror {
    fn new() -> Self {
        Self { outage: Outage::new(OUTAGE), seen: None, looked: Instant::now(), is_owing: true }
    }

    async fn look(&mut self, app: &Arc<App>, access: &FleetAccess) {
        let version = app.desired().head.suppressions;
        if self.seen == Some(version) && self.looked.elapsed() < PERIOD {
            return;
        }
        match self.follow(app, access, version).await {
            Ok(trouble) => {
                self.outage.over();
                app.set_mirror_trouble(trouble);
                (self.seen, self.looked) = (Some(version), Instant::now());
            }
            Err(error) => {
                self.outage.failed(&error);
                app.set_mirror_trouble(Some(error.to_string()));
            }
        }
    }

    /// Looks all through; what is not as it should be nevertheless.
    async fn follow(&mut self, app: &Arc<App>, access: &FleetAccess, version: u64) -> Result<Option<String>, AppError> {
        let home = match blocking(app, App::home).await? {
            Home::Nowhere => return Ok(None),
            Home::Away => return Err(AppError::Home { detail: "none runs".to_owned() }),
            Home::At(at) => HomeClient::new(&at, access)?,
        };
        let (mut after, mut refused) = (None, 0);
        loop {
            let stretch = blocking(app, move |app| app.stretch(after)).await?;
            let told = home.compare(&stretch.comparison(version)).await?;
            let through = told.through.clone();
            refused += told.refused;
            self.is_owing |= blocking(app, move |app| app.take_mirrored(&stretch, told)).await?;
            match through {
                Some(through) => after = Some(through),
                None => break,
            }
        }
        blocking(app, App::mirrored_all).await?;
        if self.is_owing {
            blocking(app, App::announce_suppressions).await?;
            self.is_owing = false;
            tracing::info!("the suppressions of tenants without a region are taken over");
        }
        let full =
            || format!("its ledger has no room for {refused} that were made here, which hold in this region alone");
        Ok((refused > 0).then(full))
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    call: impl FnOnce(&App) -> Result<T, AppError> + Send + 'static,
) -> Result<T, AppError> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || call(&app)).await;
    done.unwrap_or_else(|_| Err(AppError::Home { detail: "the thread of the ledger ended".to_owned() }))
}

const OUTAGE: &str = "suppressions of tenants without a region are not taken over; the copy that is here holds";
/// Between two looks, whatever is announced.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks all through so often at least.
const PERIOD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
