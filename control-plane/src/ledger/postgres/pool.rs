//! Connections for calls that store no batch: made when they are needed, at most [`SESSIONS_MAX`], and kept.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::LedgerError;
use super::PostgresError;
use super::session::{Server, Session};

/// See the module head.
pub(super) struct Pool {
    server: Arc<Server>,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Session>,
    /// Those in use and those that are idle.
    open: usize,
}

impl Pool {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Lends a connection to `call`.
    ///
    /// # Errors
    /// Those of `call`, no connection can be made, or all are in use for too long.
    pub(super) fn with<T>(&self, call: impl FnOnce(&mut Session) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let mut lent = self.lend()?;
        let session = match &mut lent.session {
            Some(session) => session,
            none => none.insert(Session::connect(&self.server)?),
        };
        let answer = call(session);
        lent.returned = true;
        answer
    }

    /// A place among the connections, with one in it where one was idle.
    fn lend(&self) -> Result<Lent<'_>, PostgresError> {
        let until = Instant::now() + BUSY_TIMEOUT;
        let mut state = self.state();
        loop {
            while let Some(session) = state.idle.pop() {
                if !session.is_broken() {
                    return Ok(Lent { pool: self, session: Some(session), returned: false });
                }
                state.open -= 1;
            }
            if state.open < SESSIONS_MAX {
                state.open += 1;
                return Ok(Lent { pool: self, session: None, returned: false });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (server, seconds) = (Arc::clone(self.server.name()), BUSY_TIMEOUT.as_secs());
                return Err(PostgresError::Busy { server, connections: SESSIONS_MAX, seconds });
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the place back, and the connection where a call has ended on it and left it whole.
struct Lent<'p> {
    pool: &'p Pool,
    session: Option<Session>,
    returned: bool,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let whole = self.session.take().filter(|session| self.returned && !session.is_broken());
        let mut state = self.pool.state();
        match whole {
            Some(session) => state.idle.push(session),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

/// Connections beside the one that stores batches.
const SESSIONS_MAX: usize = 4;
/// How long a call waits for one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
