//! Stage *schedule*: when, and by which egress path. It knows ids, times and limits, never message content.
//!
//! - [`ScheduledQueue`]: groups that wait for their due time;
//! - [`FairQueue`]: what is ready on one path, fair between tenants (deficit round robin) and between traffic classes;
//! - [`Reserves`]: which of it is within its tenant's reserved rate and goes ahead;
//! - [`Path`]: one (source, site) with its connections, back-off and ready queue;
//! - [`Gates`]: throttles and limits by shaping rules, and who waits for them;
//! - [`retry_delay`]: the time until the next attempt;
//! - [`WaitReason`]: why a recipient waits, as data.

mod fair;
mod gate;
mod path;
mod queue;
mod reserve;
mod retry;

pub use fair::{FairQueue, Lane};
pub use gate::{GateList, Gates, Waiter};
pub use path::{Path, PathKey};
pub use queue::ScheduledQueue;
pub use reserve::Reserves;
pub use retry::retry_delay;

/// Why a recipient has not been settled yet. Every wait has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitReason {
    /// The recipient domain's MX is being looked up.
    Resolving,
    /// Ready on its path, waiting for a connection.
    Ready,
    /// An attempt is under way.
    InFlight,
    /// Handed to the shard that owns the source address.
    OtherShard,
    /// A transient failure; the next attempt has a time.
    Retry,
    /// The site failed as a whole; the path is tried again at a time.
    SiteBackoff,
    SiteSuspended,
    SourceSuspended,
    TenantSuspended,
    /// No pool or source serves the sending domain under the present configuration.
    NoSource,
    /// No pool that the routing rules and the sending domain name carries mail of its class.
    NoPoolForClass,
    /// A shaping rule holds it back: a throttle, or a limit over several sites.
    Throttled,
    /// Another host has the addresses of the pool at present.
    AddressElsewhere,
    /// It has been offered to another host, which has not said yet whether it took it.
    BeingMoved,
    /// Its domain failed in DNS when it was accepted: a person releases it, or drops it.
    Quarantined,
    /// The node is draining: attempts go on after its next start.
    Draining,
}

impl WaitReason {
    /// The word in the queue view and in traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolving => "resolving",
            Self::Ready => "ready",
            Self::InFlight => "in_flight",
            Self::OtherShard => "other_shard",
            Self::Retry => "retry",
            Self::SiteBackoff => "site_backoff",
            Self::SiteSuspended => "site_suspended",
            Self::SourceSuspended => "source_suspended",
            Self::TenantSuspended => "tenant_suspended",
            Self::NoSource => "no_source",
            Self::NoPoolForClass => "no_pool_for_class",
            Self::Throttled => "throttled",
            Self::AddressElsewhere => "address_elsewhere",
            Self::BeingMoved => "being_moved",
            Self::Quarantined => "quarantined",
            Self::Draining => "draining",
        }
    }

    /// Whether only a change of configuration, or of the addresses that are here, ends the wait.
    pub const fn until_configured(self) -> bool {
        matches!(
            self,
            Self::SiteSuspended
                | Self::SourceSuspended
                | Self::TenantSuspended
                | Self::NoSource
                | Self::NoPoolForClass
                | Self::AddressElsewhere
        )
    }

    /// Whether a change of configuration may end the wait before its time.
    pub const fn depends_on_rules(self) -> bool {
        self.until_configured() || matches!(self, Self::Throttled)
    }
}
