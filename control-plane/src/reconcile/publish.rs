//! Publishes what another process wrote to the configuration store.
//!
//! Activated by the store's watch and by period; the own writes are known already and cost one comparison.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::app::{App, AppError};

/// Runs until `stop` is true.
pub(crate) async fn follow_store(app: Arc<App>, mut store: watch::Receiver<u64>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            changed = store.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PERIOD) => {}
        }
        let app = Arc::clone(&app);
        let done = tokio::task::spawn_blocking(move || app.reload()).await;
        if let Ok(Err(error)) = done {
            report(&error);
        }
    }
}

fn report(error: &AppError) {
    tracing::error!(error = error as &dyn std::error::Error, "configuration not taken over");
}

const PERIOD: Duration = Duration::from_secs(10);
