//! The steps of an attempt, and how long those of a connection may take.
//!
//! Steps that are not SMTP (spool, names, signing) are named here too, so that one value tells events and traces where an
//! attempt ended; the client never says them.

use std::time::Duration;

/// The part of an attempt that a reply or fault belongs to, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Before there was a session: our own spool.
    Spool,
    /// Before there was a session: the site's names.
    Dns,
    /// Our own signing keys.
    Sign,
    Connect,
    Greeting,
    Ehlo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    EndOfData,
}

impl Phase {
    pub const ALL: [Self; 11] = [
        Self::Spool,
        Self::Dns,
        Self::Sign,
        Self::Connect,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::EndOfData,
    ];

    /// The name in events and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Dns => "dns",
            Self::Sign => "sign",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::EndOfData => "end_of_data",
        }
    }
}

/// How long each step may take (RFC 5321 4.5.3.2 where it names one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    pub greeting: Duration,
    pub ehlo: Duration,
    /// The reply to STARTTLS, and the handshake.
    pub start_tls: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    pub data: Duration,
    /// Each MiB of the message, from the 354.
    pub data_block: Duration,
    pub end_of_data: Duration,
    pub rset: Duration,
    pub quit: Duration,
}

impl Timeouts {
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(30),
        greeting: Duration::from_secs(300),
        ehlo: Duration::from_secs(300),
        start_tls: Duration::from_secs(60),
        mail: Duration::from_secs(300),
        rcpt: Duration::from_secs(300),
        data: Duration::from_secs(120),
        data_block: Duration::from_secs(180),
        end_of_data: Duration::from_secs(600),
        rset: Duration::from_secs(60),
        quit: Duration::from_secs(10),
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}
