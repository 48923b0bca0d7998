//! Finds the data planes that are announced in the store, and what all of them read.

use std::sync::Arc;
use std::time::Duration;

use postrail_schema::host::HostAnnouncement;
use postrail_schema::keys::HOSTS;
use tokio::sync::watch;
use tokio::time::sleep;

use super::outage::Outage;
use crate::app::{App, AppError, DataPlane, FleetAccess, HostClient};
use crate::plan::reads_shared;
use crate::store::{ConfigStore, Listing, WatchEvent};

/// Runs until `stop` is true. A store that is out of reach leaves what is known.
pub(crate) async fn follow_hosts(
    app: Arc<App>,
    store: Arc<dyn ConfigStore>,
    access: FleetAccess,
    mut stop: watch::Receiver<bool>,
) {
    let mut outage = Outage::new("the data planes are not listed");
    loop {
        let followed = async {
            match look(&app, &store, &access).await {
                Ok(revision) => {
                    outage.over();
                    publish_shared(&app).await;
                    let mut watch = store.watch(HOSTS, revision);
                    while let Some(event) = watch.next().await {
                        if matches!(event, WatchEvent::Changes { .. }) && look(&app, &store, &access).await.is_err() {
                            break;
                        }
                        // Now and then as well: a control plane of an earlier version forgets it.
                        publish_shared(&app).await;
                    }
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

/// The store's revision that is known then.
async fn look(app: &App, store: &Arc<dyn ConfigStore>, access: &FleetAccess) -> Result<u64, AppError> {
    let listed = Arc::clone(store);
    let listing = tokio::task::spawn_blocking(move || listed.list(HOSTS)).await;
    let listing = listing.map_err(|_| AppError::DataPlane { detail: "the thread of the store ended".to_owned() })??;
    app.hosts.set(clients(&listing, access, &app.region));
    Ok(listing.revision)
}

/// Has domains of one name published once every host reads them.
async fn publish_shared(app: &Arc<App>) {
    if app.desired().head.publishes_shared {
        return;
    }
    let app = Arc::clone(app);
    let publish = move || {
        if reads_shared(&app.snapshot_formats()?) {
            app.publish_shared()?;
        }
        Ok::<(), AppError>(())
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(publish).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "domains that several tenants have are not published yet");
    }
}

/// Those of our region: what happened in another is not for our ledger.
fn clients(listing: &Listing, access: &FleetAccess, region: &str) -> Vec<HostClient> {
    let mut clients = Vec::new();
    for entry in &listing.entries {
        let name = entry.key.strip_prefix(HOSTS).unwrap_or_default().to_owned();
        match serde_json::from_slice::<HostAnnouncement>(&entry.value) {
            Ok(host) if host.region != region => {}
            Ok(host) => match DataPlane::of_host(&name, &host.admin, access) {
                Ok(client) => {
                    let HostAnnouncement { id, admin, master_keys, .. } = host;
                    clients.push(HostClient { name, id, admin, master_keys, client });
                }
                // The others are not kept waiting for it.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, host = name, "the host is not spoken to");
                }
            },
            Err(error) => tracing::error!(%error, host = name, "what the host announces cannot be read"),
        }
    }
    clients
}

const PAUSE: Duration = Duration::from_secs(1);
