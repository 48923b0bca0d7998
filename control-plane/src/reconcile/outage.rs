//! What is said of a reconciler that fails: when that begins, once a minute while it goes on, and when it is over.

use std::error::Error;
use std::time::Instant;

/// One thing that fails at times, such as listing the data planes.
pub(super) struct Outage {
    what: &'static str,
    lasting: postrail_schema::outage::Outage<Instant>,
}

impl Outage {
    /// `what`: what does not happen then, in words for the log.
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, lasting: postrail_schema::outage::Outage::new() }
    }

    /// It has failed.
    pub(super) fn failed(&mut self, error: &(dyn Error + 'static)) {
        if let Some(lasted) = self.lasting.failed(Instant::now()) {
            tracing::warn!(error, seconds = lasted.as_secs(), "{}", self.what);
        }
    }

    /// It works.
    pub(super) fn over(&mut self) {
        if let Some(lasted) = self.lasting.over(Instant::now()) {
            tracing::info!(seconds = lasted.as_secs(), "over: {}", self.what);
        }
    }
}
