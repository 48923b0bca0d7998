//! The questions of one check: none is asked twice, there are only so many, and none is answered after the check's time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use postrail_schema::limits::{DOMAIN_CHECK_QUESTIONS_MAX, DOMAIN_CHECK_TIMEOUT};
use tokio::time::{Instant, timeout_at};

use crate::dns::{Answer, Failure, Kind, Lookup};

/// See the module head.
pub(super) struct Session<'a, L> {
    lookup: &'a L,
    known: Mutex<HashMap<(Option<IpAddr>, String, Kind), Answer>>,
    left: AtomicU32,
    until: Instant,
}

impl<'a, L: Lookup> Session<'a, L> {
    pub(super) fn new(lookup: &'a L) -> Self {
        Self {
            lookup,
            known: Mutex::default(),
            left: AtomicU32::new(DOMAIN_CHECK_QUESTIONS_MAX),
            until: Instant::now() + DOMAIN_CHECK_TIMEOUT,
        }
    }

    async fn remembered(&self, server: Option<IpAddr>, name: &str, kind: Kind) -> Answer {
        let key = (server, name.to_ascii_lowercase(), kind);
        if let Some(answer) = self.known().get(&key) {
            return answer.clone();
        }
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if took.is_err() {
            return Answer::failed(None, Failure::TooMany);
        }
        let asked = async {
            match server {
                Some(server) => self.lookup.ask_at(server, &key.1, kind).await,
                None => self.lookup.ask(&key.1, kind).await,
            }
        };
        let answer = timeout_at(self.until, asked).await.unwrap_or(Answer::failed(None, Failure::Timeout));
        self.known().insert(key, answer.clone());
        answer
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(Option<IpAddr>, String, Kind), Answer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Lookup> Lookup for Session<'_, L> {
    async fn ask(&self, name: &str, kind: Kind) -> Answer {
        self.remembered(None, name, kind).await
    }

    async fn ask_at(&self, server: IpAddr, name: &str, kind: Kind) -> Answer {
        self.remembered(Some(server), name, kind).await
    }
}
