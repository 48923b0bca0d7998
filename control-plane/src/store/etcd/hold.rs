//! A key under a lease: put while nobody has it, kept by renewing, gone soon after its holder is.
//!
//! Invariant worth naming: what is told as held is held. The time until which it is counts from before the renewal was
//! asked for, so it ends here before the lease ends in etcd, however long the answer took. No call takes longer than what
//! lies between two renewals, and a member that does not answer is left for another, which is asked at once: so one member
//! that is stuck costs no lease while others answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::super::StoreError;
use super::{Shared, failed};

/// What asks for renewals, and the answers.
type Renewals = (LeaseKeeper, LeaseKeepAliveStream);

/// One who wants a key.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// With the root.
    key: String,
    value: Vec<u8>,
    ttl: Duration,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, key: String, value: Vec<u8>, ttl: Duration) -> Self {
        Self { shared, key, value, ttl }
    }

    /// Until it is released, which closes `released`.
    pub(super) async fn keep(self, holds: watch::Sender<Option<Instant>>, mut released: mpsc::Receiver<()>) {
        loop {
            let (mut lease, mut member) = (0, 0);
            tokio::select! {
                biased;
                _ = released.recv() => {
                    self.give_back(lease).await;
                    return;
                }
                tried = self.hold(&holds, &mut lease, &mut member) => if let Err(error) = tried {
                    tracing::debug!(error = &error as &dyn std::error::Error, key = self.key, "key not held");
                    self.shared.leave(member).await;
                },
            }
            // A key that we lost, or that somebody else has.
            tokio::select! {
                _ = released.recv() => {
                    self.give_back(lease).await;
                    return;
                }
                () = self.give_back(lease) => {}
            }
            tokio::select! {
                _ = released.recv() => return,
                () = sleep(self.ttl / TRIES) => {}
            }
        }
    }

    /// Takes the key if nobody has it, and renews until that fails.
    async fn hold(
        &self,
        holds: &watch::Sender<Option<Instant>>,
        lease: &mut i64,
        member: &mut usize,
    ) -> Result<(), StoreError> {
        let (at, mut client) = self.within(self.shared.client()).await?;
        *member = at;
        let asked = Instant::now();
        // etcd counts from when it grants, which is later than this: the time here ends first.
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let grant = async { client.lease_grant(seconds, None).await.map_err(failed("leasing")) };
        *lease = self.within(grant).await?.id();
        if !self.take(&mut client, *lease).await? {
            return Ok(());
        }
        let mut stream = Some(self.renewals(&mut client, *lease).await?);
        let mut until = asked + self.ttl;
        loop {
            holds.send_replace(Some(until));
            sleep(self.ttl / TRIES).await;
            until = self.renewed(&mut stream, *lease, member, until).await?;
        }
    }

    /// Until when the lease holds, renewed by whichever member answers before it ends.
    async fn renewed(
        &self,
        stream: &mut Option<Renewals>,
        lease: i64,
        member: &mut usize,
        until: Instant,
    ) -> Result<Instant, StoreError> {
        loop {
            let renewed = match stream {
                Some(stream) => self.renew(stream).await,
                None => Err(StoreError::Timeout { act: "renewing" }),
            };
            match renewed {
                Ok(renewed) => return Ok(renewed),
                Err(error) if Instant::now() >= until => return Err(error),
                // The lease may be alive, and this member alone be stuck.
                Err(_) => {}
            }
            self.shared.leave(*member).await;
            let (at, mut client) = self.within(self.shared.client()).await?;
            *member = at;
            *stream = self.renewals(&mut client, lease).await.ok();
            if stream.is_none() {
                sleep(self.ttl / (TRIES * TRIES)).await;
            }
        }
    }

    async fn renewals(&self, client: &mut Client, lease: i64) -> Result<Renewals, StoreError> {
        self.within(async { client.lease_keep_alive(lease).await.map_err(failed("renewing")) }).await
    }

    /// Whether the key is ours now.
    async fn take(&self, client: &mut Client, lease: i64) -> Result<bool, StoreError> {
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(self.key.as_str(), self.value.as_slice(), Some(options));
        let absent = Compare::mod_revision(self.key.as_str(), CompareOp::Equal, 0);
        let transaction = Txn::new().when([absent]).and_then([put]);
        let answer = self.within(async { client.txn(transaction).await.map_err(failed("holding")) }).await?;
        Ok(answer.succeeded())
    }

    /// Until when a renewal holds.
    async fn renew(&self, (keeper, answers): &mut Renewals) -> Result<Instant, StoreError> {
        let asked = Instant::now();
        let renewal = async {
            keeper.keep_alive().await.map_err(failed("renewing"))?;
            let answer = answers.message().await.map_err(failed("renewing"))?;
            Ok::<_, StoreError>(answer.is_some_and(|answer| answer.ttl() > 0))
        };
        let lost = StoreError::Garbled { what: "a lease that is over" };
        let patience = self.ttl / TRIES;
        let renewed = timeout(patience, renewal).await.map_err(|_| StoreError::Timeout { act: "renewing" })?;
        if renewed? { Ok(asked + self.ttl) } else { Err(lost) }
    }

    async fn give_back(&self, lease: i64) {
        if lease == 0 {
            return;
        }
        let revoke = async {
            let (_, mut client) = self.shared.client().await?;
            client.lease_revoke(lease).await.map_err(failed("giving a lease back"))
        };
        if let Err(error) = self.within(revoke).await {
            tracing::debug!(error = &error as &dyn std::error::Error, key = self.key, "the lease ends by itself");
        }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        timeout(self.ttl / TRIES, call).await.unwrap_or(Err(StoreError::Timeout { act: "holding a key" }))
    }
}

/// Renewals within the life of a lease.
const TRIES: u32 = 3;
