//! A hash over all that happened, in its order: two runs of one seed must agree in it.

/// FNV-1a over 64-bit words; it finds differences and keeps no secrets.
#[derive(Clone, Debug)]
pub(crate) struct Trace(u64);

impl Trace {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ seed)
    }

    /// Takes a step of `kind` with two numbers that tell it from others.
    pub(crate) fn step(&mut self, kind: Step, first: u64, second: u64) {
        for word in [kind as u64, first, second] {
            for octet in word.to_le_bytes() {
                self.0 = (self.0 ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.0
    }
}

/// What can happen.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Step {
    Poll = 1,
    Segment = 2,
    Datagram = 3,
    Write = 4,
    Sync = 5,
    Folder = 6,
    Crash = 7,
    Lease = 8,
}
