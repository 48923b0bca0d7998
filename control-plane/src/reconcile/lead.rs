//! Leads, where several control planes run: one of each region holds the leader's key, and reconciles.
//!
//! The lease says who should; a leader that was paused may still be at work when the next begins, and that is harmless:
//! a journal's cursor and a chunk's revision are compared where they are stored.

use std::sync::Arc;
use std::time::Duration;

use postrail_schema::keys;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::announce::announce_suppressions;
use super::collect::collect_chunks;
use super::domains::check_domains;
use super::journal::{JournalGauges, pull_journals};
use super::mirror::mirror_suppressions;
use super::quotas::tell_quotas;
use crate::app::{App, FleetAccess};
use crate::store::{ConfigStore, Hold};

/// Runs until `stop` is true. `at`: where the control API of this process is, told to data planes while it leads; `access`: in a fleet.
pub(crate) async fn lead(
    app: Arc<App>,
    store: Arc<dyn ConfigStore>,
    gauges: Arc<JournalGauges>,
    at: String,
    access: Option<FleetAccess>,
    mut stop: watch::Receiver<bool>,
) {
    let mut held = None;
    while !*stop.borrow() {
        // Who has another ledger than its region leaves the lead to whom that is.
        if app.check_ledger().is_err() {
            let_go(held.take()).await;
            pause(&mut stop).await;
            continue;
        }
        let hold = match &mut held {
            Some(hold) => hold,
            None => {
                let (store, key, at) = (Arc::clone(&store), keys::leader(&app.region), at.clone());
                let taken = tokio::task::spawn_blocking(move || store.hold(&key, at.as_bytes(), TERM)).await;
                let Ok(taken) = taken else { return };
                held.insert(taken)
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = hold.held() => {}
            () = sleep(LOOK) => continue,
        }
        // It was ours once; whether it is again, only time tells.
        if !hold.is_held() {
            pause(&mut stop).await;
            continue;
        }
        let (end, ended) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(pull_journals(Arc::clone(&app), Arc::clone(&gauges), ended.clone()));
        tasks.spawn(check_domains(Arc::clone(&app), ended.clone()));
        tasks.spawn(tell_quotas(Arc::clone(&app), ended.clone()));
        tasks.spawn(announce_suppressions(Arc::clone(&app), ended.clone()));
        if let Some(access) = access.clone().filter(|_| !app.region.is_empty()) {
            tasks.spawn(mirror_suppressions(Arc::clone(&app), access, ended.clone()));
        }
        tasks.spawn(collect_chunks(Arc::clone(&store), ended));
        while hold.is_held() && app.check_ledger().is_ok() && !*stop.borrow() {
            pause(&mut stop).await;
        }
        end.send_replace(true);
        while tasks.join_next().await.is_some() {}
        if !*stop.borrow() {
            tracing::warn!("another control plane may lead now");
        }
    }
    let_go(held).await;
}

/// Until it is time to look again.
async fn pause(stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = sleep(LOOK) => {}
    }
}

async fn let_go(held: Option<Hold>) {
    // The embedded store writes when a key is let go of.
    let _ = tokio::task::spawn_blocking(move || drop(held)).await;
}

/// A leader that died is followed after at most so long.
const TERM: Duration = Duration::from_secs(5);
/// How often the leader looks whether it leads.
const LOOK: Duration = Duration::from_millis(500);
