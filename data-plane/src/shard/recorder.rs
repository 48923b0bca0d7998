//! What becomes of recipients, made durable: reports, events, notes, and the release of what is finished.

use std::sync::Arc;
use std::time::Duration;

use postrail_core::events::dsn;
use postrail_core::shard::{Input, Record};
use postrail_core::spool::Location;
use postrail_core::transfer::Note;

use super::Runtime;
use crate::platform::Platform;
use crate::spool::StoreError;
use crate::vital::Vital;

/// How long a record that could not be written waits for the next try.
const RECORD_RETRY: Duration = Duration::from_millis(500);

impl<P: Platform> Runtime<P> {
    /// Puts a record behind those that wait.
    pub(super) fn record(&self, record: Box<Record>) {
        let _ = self.0.records.0.try_send(record);
    }

    /// Makes records durable in their order: reports first, then the events and notes of all that has gathered, then the
    /// jobs that are finished are released.
    pub(super) async fn keep_records(self) {
        let _vital = Vital("recorder");
        while let Ok(first) = self.0.records.1.recv().await {
            self.0.recording.set(true);
            let fences = std::mem::take(&mut *self.0.fences.borrow_mut());
            let mut records = vec![first];
            while let Ok(next) = self.0.records.1.try_recv() {
                records.push(next);
            }
            let mut events = Vec::with_capacity(records.iter().map(|record| record.events.len()).sum());
            let (mut notes, mut finished) = (Vec::new(), Vec::new());
            for record in records {
                if let Some((at, request)) = record.report {
                    self.report(at, request).await;
                }
                events.extend(record.events);
                notes.extend(record.notes);
                finished.extend(record.finished);
            }
            while let Err(error) = self.0.journal.append(&events, &notes).await {
                tracing::error!(%error, "events cannot be written; trying again");
                let until = self.0.platform.now() + RECORD_RETRY;
                self.0.platform.sleep_until(until).await;
            }
            for (_, at) in finished {
                self.0.spool.release(at);
            }
            for fence in fences {
                let _ = fence.try_send(());
            }
            self.0.recording.set(false);
        }
    }

    /// Ends when `notes`, and every record before them, are durable.
    pub async fn note(&self, notes: Vec<Note>) {
        let (sender, receiver) = async_channel::bounded(1);
        self.0.fences.borrow_mut().push(sender);
        self.record(Box::new(Record { notes, ..Record::default() }));
        let _ = receiver.recv().await;
    }

    /// Stores a report to the sender, if one is due. A report that cannot be stored is tried again: it comes before the
    /// settlement that it is about.
    async fn report(&self, at: Location, request: dsn::ReportRequest) {
        let job = match self.0.spool.load(at).await {
            Ok(job) => job,
            Err(error) => return tracing::error!(message = %request.message, %error, "cannot read for a report"),
        };
        let snapshot = self.snapshot();
        let domain = snapshot.domains.get(&job.domain).map_or(&*self.0.node.hostname, |domain| &*domain.name);
        let now = self.0.platform.timestamp();
        let Some(report) = dsn::compose(&job, &request, domain, &self.0.node.hostname, now) else { return };
        if self.0.heart.borrow().holds(report.id) {
            return; // made before a crash, and still waiting
        }
        loop {
            match self.0.spool.store_report(&report).await {
                // Recovery has found the one that was made before a crash meanwhile.
                Ok(at) if self.0.heart.borrow().holds(report.id) => return self.0.spool.release(at),
                Ok(at) => return self.input(Input::Accepted { job: Arc::new(report), at }),
                Err(error @ StoreError::TooLarge { .. }) => {
                    return tracing::error!(message = %request.message, %error, "cannot report");
                }
                Err(error) => tracing::warn!(message = %request.message, %error, "cannot store a report yet"),
            }
            let until = self.0.platform.now() + RECORD_RETRY;
            self.0.platform.sleep_until(until).await;
        }
    }
}
