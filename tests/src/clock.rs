//! A wall clock of the story's own for processes under test: `clock.c`, preloaded.
//!
//! Only CLOCK_REALTIME moves. What counts by the monotonic clock, such as pauses and leases, goes on as it did.

use std::path::PathBuf;
use std::process::Command;

use crate::child::run;
use crate::place::{Place, root};

/// See the module head.
pub struct Clock {
    file: PathBuf,
    preload: String,
    offset: String,
}

impl Clock {
    /// A clock that is right so far. `name` tells those of one story apart.
    pub fn new(place: &Place, name: &str) -> Self {
        let (library, file) = (place.join(&format!("{name}.so")), place.join(name));
        let source = root().join("tests/src/clock.c");
        run(Command::new("gcc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source));
        let (preload, offset) = (library.display().to_string(), file.display().to_string());
        let clock = Self { file, preload, offset };
        clock.set(0);
        clock
    }

    /// Puts it so many seconds ahead of the real one.
    pub fn set(&self, seconds: i64) {
        std::fs::write(&self.file, seconds.to_string()).expect("written");
    }

    /// What a process is started with to go by it.
    pub fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", &self.preload), ("CLOCK_OFFSET_FILE", &self.offset)]
    }
}
