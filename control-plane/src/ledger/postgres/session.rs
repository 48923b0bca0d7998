//! One connection to the server, and calls on it that end.
//!
//! The client is asynchronous and runs on one thread of its own; calls block until they are answered or their time is
//! over. Statements are prepared once a connection, and planned once: every one of them finds its rows by a key.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::super::LedgerError;
use super::tls::Tls;
use super::{PostgresAddress, PostgresError};

/// The server, and the thread that connections to it run on.
pub(in super::super) struct Server {
    config: Config,
    tls: Option<Tls>,
    name: Arc<str>,
    /// Taken when it is dropped, which may be where nothing may block.
    runtime: Option<Runtime>,
    /// When a connection could not be made last.
    failed: Mutex<Option<Instant>>,
}

impl Server {
    /// # Errors
    /// The system gives no thread.
    pub(in super::super) fn new(address: &PostgresAddress) -> Result<Self, PostgresError> {
        let mut config = address.config().clone();
        config
            .application_name("postrail")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(CALL_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(CALL_TIMEOUT);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ledger")
            .enable_all()
            .build()
            .map_err(PostgresError::Thread)?;
        Ok(Self {
            config,
            tls: address.tls().cloned(),
            name: address.name().into(),
            runtime: Some(runtime),
            failed: Mutex::new(None),
        })
    }

    /// Host, port and database, as errors tell them.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Waits for an answer, as long as `limit`.
    fn wait<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PostgresError> {
        let runtime = self.runtime.as_ref().expect("it is there until the server is dropped");
        match runtime.block_on(async { tokio::time::timeout(limit, call).await }) {
            Ok(answer) => answer.map_err(|source| PostgresError::of(&self.name, source)),
            Err(_) => Err(PostgresError::TooSlow { server: Arc::clone(&self.name), seconds: limit.as_secs() }),
        }
    }

    /// Callers that waited for one that failed fail with it, rather than each after a wait of its own.
    fn check_last_failure(&self) -> Result<(), PostgresError> {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Some(at) if at.elapsed() < RECONNECT_PAUSE => {
                Err(PostgresError::StillAway { server: Arc::clone(&self.name) })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// See the module head.
pub(in super::super) struct Session {
    server: Arc<Server>,
    client: Client,
    connection: JoinHandle<()>,
    statements: HashMap<&'static str, Statement>,
    broken: bool,
}

impl Session {
    /// # Errors
    /// The server cannot be reached, or refuses us.
    pub(in super::super) fn connect(server: &Arc<Server>) -> Result<Self, PostgresError> {
        server.check_last_failure()?;
        let connected = server.wait(CONNECT_TIMEOUT, open(server));
        let mut failed = server.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match connected {
            Ok((client, connection)) => {
                *failed = None;
                let server = Arc::clone(server);
                Ok(Self { server, client, connection, statements: HashMap::new(), broken: false })
            }
            Err(error) => {
                *failed = Some(Instant::now());
                Err(error.while_connecting())
            }
        }
    }

    /// Whether it must not be used any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken || self.client.is_closed()
    }

    /// Where it goes to, for errors.
    pub(super) fn server_name(&self) -> &Arc<str> {
        &self.server.name
    }

    /// # Errors
    /// The statement fails, or the connection.
    pub(in super::super) fn query(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        let statement = self.prepared(sql)?;
        let answer = self.server.wait(CALL_TIMEOUT, self.client.query(&statement, values));
        self.checked(answer)
    }

    /// Gives the number of rows.
    ///
    /// # Errors
    /// The statement fails, or the connection.
    pub(in super::super) fn execute(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, PostgresError> {
        let statement = self.prepared(sql)?;
        let answer = self.server.wait(CALL_TIMEOUT, self.client.execute(&statement, values));
        self.checked(answer)
    }

    /// Executes statements without values, as long as `limit`.
    ///
    /// # Errors
    /// A statement fails, or the connection.
    pub(super) fn script(&mut self, sql: &str, limit: Duration) -> Result<(), PostgresError> {
        let answer = self.server.wait(limit, self.client.batch_execute(sql));
        self.checked(answer)
    }

    /// What `call` does is done when this returns, or undone. Where the answer to the commit is lost, either may be; the
    /// error says so by being one.
    ///
    /// # Errors
    /// Those of `call`, or the connection fails.
    pub(in super::super) fn transaction<T>(
        &mut self,
        call: impl FnOnce(&mut Self) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.script("BEGIN", CALL_TIMEOUT)?;
        match call(self) {
            Ok(made) => {
                self.script("COMMIT", CALL_TIMEOUT)?;
                Ok(made)
            }
            Err(error) => {
                if !self.is_broken() && self.script("ROLLBACK", CALL_TIMEOUT).is_err() {
                    self.broken = true;
                }
                Err(error)
            }
        }
    }

    fn prepared(&mut self, sql: &'static str) -> Result<Statement, PostgresError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let answer = self.server.wait(CALL_TIMEOUT, self.client.prepare(sql));
        let statement = self.checked(answer)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    fn checked<T>(&mut self, answer: Result<T, PostgresError>) -> Result<T, PostgresError> {
        if answer.as_ref().is_err_and(PostgresError::ends_the_connection) {
            self.broken = true;
        }
        answer
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It ends by itself when the client is gone, unless the server does not answer any more.
        if self.is_broken() {
            self.connection.abort();
        }
    }
}

/// Makes a connection and sets it up.
async fn open(server: &Server) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
    // The client is told of whatever ends a connection.
    let (client, connection) = match &server.tls {
        Some(tls) => {
            let (client, connection) = server.config.connect(tls.clone()).await?;
            (client, tokio::spawn(async { drop(connection.await) }))
        }
        None => {
            let (client, connection) = server.config.connect(NoTls).await?;
            (client, tokio::spawn(async { drop(connection.await) }))
        }
    };
    client.batch_execute(SETTINGS).await?;
    Ok((client, connection))
}

/// A number for a column of `bigint`; what does not fit is the largest that does.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number of a column of `bigint` that holds no negative ones.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// To be connected and set up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One call. Longer than the server's own limits below, which say more when they are reached.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// After a connection could not be made.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A commit is durable when it returns (a setting of the server that asks for more stays in effect); who is gone holds no
/// lock; one plan a statement, made without a look at its values.
const SETTINGS: &str = "
    SET search_path TO postrail_ledger;
    SET statement_timeout TO '20s';
    SET lock_timeout TO '10s';
    SET idle_in_transaction_session_timeout TO '10s';
    SET client_connection_check_interval TO '5s';
    SET plan_cache_mode TO force_generic_plan;
    SET jit TO off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
";
