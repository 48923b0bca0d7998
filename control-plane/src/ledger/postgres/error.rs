//! What goes wrong with a PostgreSQL server, whose fault it is, and what to do.

use std::sync::Arc;

use tokio_postgres::error::{Severity, SqlState};

/// See the module head. `server` is host, port and database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    /// The connection could not be made.
    #[error("PostgreSQL at {server} cannot be reached; check that it runs and that this host may connect to it")]
    Unreachable {
        server: Arc<str>,
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    /// It could not be made a moment ago.
    #[error("PostgreSQL at {server} could not be reached a moment ago; check that it runs")]
    StillAway { server: Arc<str> },
    /// The connection ended in the midst of a call.
    #[error("the connection to PostgreSQL at {server} broke off; the next call makes another one")]
    Lost {
        server: Arc<str>,
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    #[error("PostgreSQL at {server} has not answered within {seconds} s; look there for long locks or a slow disk")]
    TooSlow { server: Arc<str>, seconds: u64 },
    /// Wrong password, or no entry in `pg_hba.conf`.
    #[error("PostgreSQL at {server} refuses this user: {said}; check the password and pg_hba.conf")]
    Refused { server: Arc<str>, said: String },
    #[error("PostgreSQL at {server} has no such database: {said}; make it with createdb")]
    NoDatabase { server: Arc<str>, said: String },
    #[error("PostgreSQL at {server} lets this user not do that: {said}; make the user the owner of the database")]
    Denied { server: Arc<str>, said: String },
    /// Any other refusal of a statement.
    #[error("PostgreSQL at {server} refused a statement of the ledger: {said} (SQLSTATE {code})")]
    Statement { server: Arc<str>, said: String, code: String },
    /// Every connection that calls share is in use.
    #[error("all {connections} connections to PostgreSQL at {server} have been in use for {seconds} s")]
    Busy { server: Arc<str>, connections: usize, seconds: u64 },
    #[error("the ledger at {server} belongs to another installation; make a database for this one")]
    OtherInstallation { server: Arc<str> },
    #[error(
        "a ledger was being moved to {server}, and the move was cut short: go on with `postrail move-ledger` on the host that it is of"
    )]
    MoveUnfinished { server: Arc<str> },
    #[error("there is a ledger at {server} already, which events were stored in: move into an empty database")]
    Occupied { server: Arc<str> },
    #[error("the thread of the connections to PostgreSQL cannot be started")]
    Thread(#[source] std::io::Error),
}

impl PostgresError {
    /// The error of a call that `server` did not answer as hoped.
    pub(super) fn of(server: &Arc<str>, source: tokio_postgres::Error) -> Self {
        let server = Arc::clone(server);
        let Some(told) = source.as_db_error() else { return Self::Lost { server, source: Box::new(source) } };
        let (said, code) = (told.message().to_owned(), told.code());
        match code.code().get(..2) {
            Some("28") => Self::Refused { server, said },
            // The server is starting, stopping, or ends this connection.
            Some("57") if *code != SqlState::QUERY_CANCELED => Self::Lost { server, source: Box::new(source) },
            // It has become a standby: another one of the address may accept writing.
            _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Self::Lost { server, source: Box::new(source) },
            _ if *code == SqlState::INVALID_CATALOG_NAME => Self::NoDatabase { server, said },
            _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => Self::Denied { server, said },
            _ if told.parsed_severity().is_some_and(|severity| severity != Severity::Error) => {
                Self::Lost { server, source: Box::new(source) }
            }
            _ => Self::Statement { server, said, code: code.code().to_owned() },
        }
    }

    /// The same, of a connection that is being made.
    pub(super) fn while_connecting(self) -> Self {
        match self {
            Self::Lost { server, source } => Self::Unreachable { server, source },
            other => other,
        }
    }

    /// Whether the connection is of no more use.
    pub(crate) fn ends_the_connection(&self) -> bool {
        !matches!(self, Self::Statement { .. } | Self::Denied { .. })
    }
}
