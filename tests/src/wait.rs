//! Waiting for an event, bounded.

use std::time::{Duration, Instant};

/// How long a story waits for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Looks until `look` finds something; panics with `what` after [`LIMIT`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(LIMIT, what, look)
}

/// As [`until`], for what says why it is not there yet: the panic has the last word of it.
pub fn until_told<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let mut told = String::new();
    let found = within_or(LIMIT, || look().map_err(|why| told = why).ok());
    found.unwrap_or_else(|| panic!("waited {LIMIT:?} for {what}: {told}"))
}

/// As [`until`], with a limit of its own.
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    within_or(limit, &mut look).unwrap_or_else(|| panic!("waited {limit:?} for {what}"))
}

fn within_or<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
