//! Tasks that a shard cannot live without.
//!
//! A platform catches the panic of a task, so that one connection's trouble is not another's. A shard whose log writer,
//! recorder or timer is gone would go on as if alive: it would take mail that it never settles. Such a panic ends the
//! process instead; what was acknowledged is on disk, and the next start goes on with it.

/// Held by a vital task for as long as it runs.
pub(crate) struct Vital(pub(crate) &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "the shard cannot go on without this task; stopping");
            std::process::abort();
        }
    }
}
