//! Takes over what another process wrote to the configuration store.
//!
//! Activated by the store's watch and by period; the own writes are known already and cost one comparison.

use std::sync::Arc;
use std::time::Duration;

use postrail_schema::keys::HEAD;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::outage::Outage;
use crate::app::{App, AppError};
use crate::store::{ConfigStore, Watch, WatchEvent};

/// Runs until `stop` is true.
pub(crate) async fn follow_store(app: Arc<App>, store: Arc<dyn ConfigStore>, mut stop: watch::Receiver<bool>) {
    let mut outage = Outage::new("the configuration is not taken over; the last one stays in effect");
    loop {
        let followed = async {
            match reload(&app).await {
                Ok(revision) => {
                    outage.over();
                    follow(&app, store.watch(HEAD, revision)).await;
                }
                Err(error) => {
                    outage.failed(&error);
                    sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = followed => {}
        }
    }
}

/// Until the watch ends, or the configuration cannot be taken over.
async fn follow(app: &Arc<App>, mut watch: Watch) {
    let mut look = Instant::now() + PERIOD;
    loop {
        tokio::select! {
            event = watch.next() => match event {
                None => return,
                Some(WatchEvent::Alive | WatchEvent::Lost) => continue,
                Some(WatchEvent::Changes { .. }) => {}
            },
            // A store that was restored from a snapshot tells nothing of what it has not any more.
            () = sleep_until(look) => look = Instant::now() + PERIOD
        }
        if reload(app).await.is_err() {
            return;
        }
    }
}

/// The store's revision that is known then.
async fn reload(app: &Arc<App>) -> Result<u64, AppError> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || app.reload()).await;
    done.unwrap_or(Err(AppError::DataPlane { detail: "the thread of the store ended".to_owned() }))
}

const PERIOD: Duration = Duration::from_secs(10);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
