//! CPU clocks, and the loop that turns work into microseconds.
//!
//! Invariants worth naming: a cost is the median of [`SLICES`] slices, so that one disturbance on a shared machine does
//! not show; the clock of the whole process is used where the kernel works for us on threads of its own (io_uring's
//! workers count as ours), so that nothing is left out.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Parts that a measurement is divided into.
pub(super) const SLICES: u64 = 5;
/// Repetitions between two looks at the clock.
const UNBROKEN: u32 = 16;

/// What one repetition took.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Cost {
    /// User and system, microseconds.
    pub(super) cpu_us: f64,
    /// By the wall clock, microseconds.
    pub(super) wall_us: f64,
}

/// CPU time of this process so far, user and system, the kernel's io_uring workers among it.
pub(super) fn of_this_pid() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of all living threads of process `pid` so far; `None` where it is gone or the kernel does not tell.
pub(super) fn of_pid(pid: u32) -> Option<Duration> {
    let mut nanos = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // Nanoseconds on a CPU come first. A thread that has just ended is left out.
        let line = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanos += line.split_ascii_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(Duration::from_nanos(nanos))
}

/// Repeats `work` for `time` and says what one repetition costs; nothing else may run in this process.
pub(super) fn measure(time: Duration, mut work: impl FnMut()) -> Cost {
    let slices = (0..SLICES).map(|_| {
        let start = Meter::start();
        let mut count = 0_u32;
        while start.wall.elapsed() < time / SLICES as u32 {
            for _ in 0..UNBROKEN {
                work();
            }
            count += UNBROKEN;
        }
        start.each(u64::from(count))
    });
    median(slices.collect())
}

/// The clocks at the start of some work.
pub(super) struct Meter {
    wall: Instant,
    cpu: Duration,
}

impl Meter {
    pub(super) fn start() -> Self {
        Self { wall: Instant::now(), cpu: of_this_pid() }
    }

    /// What each of `count` repetitions took since the start.
    pub(super) fn each(&self, count: u64) -> Cost {
        let count = count.max(1) as f64;
        Cost {
            cpu_us: (of_this_pid() - self.cpu).as_secs_f64() * 1e6 / count,
            wall_us: self.wall.elapsed().as_secs_f64() * 1e6 / count,
        }
    }

    pub(super) fn has_run(&self, time: Duration) -> bool {
        self.wall.elapsed() >= time
    }
}

/// The slice in the middle by CPU.
pub(super) fn median(mut slices: Vec<Cost>) -> Cost {
    slices.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    slices.get(slices.len() / 2).copied().unwrap_or(Cost { cpu_us: 0.0, wall_us: 0.0 })
}

/// Slices of `time`.
pub(super) fn slices(time: Duration) -> impl Iterator<Item = Duration> {
    (0..SLICES).map(move |_| time / SLICES as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_leaves_out_what_disturbed_one_slice() {
        let slices = [3.0, 1.0, 900.0, 2.0, 4.0].map(|cpu_us| Cost { cpu_us, wall_us: cpu_us });
        assert_eq!(median(slices.to_vec()).cpu_us, 3.0);
        assert_eq!(median(Vec::new()).cpu_us, 0.0);
    }

    #[test]
    fn work_takes_cpu_time() {
        let cost = measure(Duration::from_millis(5), || {
            std::hint::black_box((0..10_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n)));
        });
        assert!(cost.cpu_us > 0.5 && cost.wall_us > 0.5, "{cost:?}");
    }
}
