//! Waiting for an event, bounded.

use std::time::{Duration, Instant};

/// How long a story waits for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Looks until `look` finds something; panics with `what` after [`LIMIT`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(LIMIT, what, look)
}

/// As [`until`], with a limit of its own.
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
