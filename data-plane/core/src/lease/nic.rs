//! One address on this host: what it is granted as, where it is on its way on or off the interface.

use std::time::Duration;

use postrail_schema::allocation::{Grant, Standing, Tenure};

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nic {
    Off,
    PuttingOn,
    On,
    TakingOff,
    /// It could not be put on; tried again with the next keepalive.
    Refused,
}

/// See the module head.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub grant: Grant,
    pub nic: Nic,
    /// It is no longer among the grants: it is forgotten when it is off.
    pub is_gone: bool,
    /// Since when it is asked back, and until when what is in flight may last.
    pub ending: Option<Duration>,
    /// It is on another interface than it is granted for: it goes off first.
    pub is_misplaced: bool,
    /// Nothing is in flight on it.
    pub is_ended: bool,
    /// Since when it was usable under this epoch.
    pub since: Option<Duration>,
    /// It is fixed, and needs no keepalives: it was used once, by this process or one before.
    pub is_lasting: bool,
}

impl Entry {
    pub(super) fn new(grant: Grant) -> Self {
        let (nic, ending, since) = (Nic::Off, None, None);
        Self { grant, nic, is_gone: false, is_misplaced: false, ending, is_ended: false, since, is_lasting: false }
    }

    /// One that a process before this one used without keepalives.
    pub(super) fn remembered(grant: Grant) -> Self {
        Self { is_lasting: true, ..Self::new(grant) }
    }

    /// It was granted by a store that is no more: only where it is remains, and that it is this host's alone.
    pub(super) fn forget(&mut self) {
        // Epochs begin with 1: whatever it is granted as next is another one.
        self.grant.epoch = 0;
        (self.is_gone, self.ending, self.is_ended, self.since) = (true, None, false, None);
    }

    fn is_fixed(&self) -> bool {
        self.is_lasting && self.grant.tenure == Tenure::Fixed
    }

    pub(super) fn is_asked_back(&self) -> bool {
        self.grant.standing == Standing::Releasing
    }

    /// Whether it is held at all, apart from the interface: `leased` says whether leases hold at present.
    pub(super) fn is_held(&self, leased: bool) -> bool {
        !self.is_gone && !self.is_asked_back() && (leased || self.is_fixed())
    }

    /// Whether it should be on the interface at `now`: it is held, or what is in flight on it may still end.
    pub(super) fn belongs_on(&self, leased: bool, now: Duration) -> bool {
        let lasts = leased || self.is_fixed();
        let ends = self.is_asked_back() && !self.is_ended && self.ending.is_some_and(|deadline| now < deadline);
        !self.is_gone && lasts && (!self.is_asked_back() || ends)
    }

    /// Whether it is given up: asked back, and off.
    pub(super) fn is_released(&self) -> bool {
        !self.is_gone && self.is_asked_back() && matches!(self.nic, Nic::Off | Nic::Refused)
    }
}
