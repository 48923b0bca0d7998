//! CPU time of threads, from `/proc/self/task/*/schedstat` (nanoseconds on a CPU, user and system together).
//!
//! Load, receivers and server may share a process (`postrail demo`): threads whose name starts with [`BENCH_THREAD`] are
//! the load's and the receivers', and are left out. Deliberately absent: threads that have ended; the measured
//! server's threads live as long as it does.

use std::fs;
use std::time::Duration;

/// How the names of load and receiver threads start (a thread's name has at most 15 octets).
pub const BENCH_THREAD: &str = "bench-load";

/// CPU time that all living threads of this process have taken, except those named [`BENCH_THREAD`]; `None` where
/// the kernel does not tell.
pub fn server_cpu() -> Option<Duration> {
    let mut nanos = 0_u64;
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with(BENCH_THREAD) {
            continue;
        }
        if let Ok(line) = fs::read_to_string(task.path().join("schedstat")) {
            nanos += on_cpu_nanos(&line)?;
        }
    }
    Some(Duration::from_nanos(nanos))
}

/// The first number of a `schedstat` line.
fn on_cpu_nanos(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_schedstat_is_the_time_on_a_cpu() {
        assert_eq!(on_cpu_nanos("48211022 133 17\n"), Some(48_211_022));
        assert_eq!(on_cpu_nanos(""), None);
        assert_eq!(on_cpu_nanos("x 1 2"), None);
    }
}
