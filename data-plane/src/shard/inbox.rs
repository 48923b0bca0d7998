//! What a shard hears from the other shards and from the control side of its host, and what it answers.
//!
//! Work, snapshots and held addresses are inputs of the core; questions get an answer each. Absent here: who asks
//! (`admin`), and how it comes (`mesh`).

use std::time::Duration;

use async_channel::Receiver;
use postrail_core::shard::Input;

use super::Runtime;
use crate::intake::rest;
use crate::mesh::{Letter, Question, Reply, ShardStatus};
use crate::platform::Platform;
use crate::vital::Vital;

impl<P: Platform> Runtime<P> {
    /// Reads the inbox until the mesh is gone.
    pub async fn read_inbox(self, inbox: Receiver<Letter>) {
        let _vital = Vital("inbox");
        while let Ok(letter) = inbox.recv().await {
            match letter {
                Letter::Hand(work) => self.input(Input::Hand(work)),
                Letter::Recall(message) => self.input(Input::Recall(message)),
                Letter::HandBack(back) => self.input(Input::HandBack(back)),
                Letter::Snapshot(snapshot) => {
                    self.input(Input::Snapshot(snapshot));
                    let _ = self.0.listeners.0.try_send(());
                }
                Letter::Held(held) => self.input(Input::Held(held)),
                Letter::Neighbours(neighbours) => self.input(Input::Neighbours(neighbours)),
                Letter::Drain => {
                    self.0.draining.set(true);
                    let _ = self.0.listeners.0.try_send(());
                    self.input(Input::Drain);
                }
                Letter::Ask(question, reply) => self.spawn("answer", move |runtime| async move {
                    let answer = runtime.answer(question).await;
                    let _ = reply.try_send(answer);
                }),
            }
        }
    }

    async fn answer(&self, question: Question) -> Reply {
        match question {
            Question::Pull { cursor, bytes_max, wait_ms } => {
                self.0.journal.wait(cursor, Duration::from_millis(wait_ms)).await;
                match self.0.journal.pull(cursor, bytes_max).await {
                    Ok((buffers, next)) => Reply::Events { buffers, next },
                    Err(error) => error.into(),
                }
            }
            Question::Sessions(address) => Reply::Affected(self.0.heart.borrow().sessions_on(address)),
            Question::Trim { cursor } => {
                self.0.journal.trim(cursor, self.0.spool.oldest_birth());
                Reply::Done
            }
            Question::Quarantine(query) => Reply::Quarantine(self.0.heart.borrow().quarantine_view(&query)),
            Question::Queue => Reply::Queue(Box::new(self.0.heart.borrow().queue_view(self.now()))),
            Question::Message(message) => {
                let view = self.0.heart.borrow().message_view(self.now(), message);
                Reply::Message(view.map(Box::new))
            }
            Question::Command(command) => {
                let affected = self.0.heart.borrow_mut().command(self.now(), &command);
                self.drive();
                affected.map_or_else(Reply::BeingMoved, Reply::Affected)
            }
            Question::Submit(forwarded) => Reply::Response(Box::new(rest::submit_forwarded(self, *forwarded).await)),
            Question::Take(parcel) => Reply::Arrival(self.take(&parcel).await),
            Question::Holds(jobs) => Reply::Holds(self.holds(&jobs)),
            Question::Store(arrived) => Reply::Fates(self.store_arrived(&arrived).await),
            Question::Status => Reply::Status(Box::new(self.status())),
        }
    }

    pub fn status(&self) -> ShardStatus {
        let heart = self.0.heart.borrow();
        let spool = self.0.spool.stats();
        ShardStatus {
            shard: self.0.id.0,
            counters: heart.counters(),
            waiting: heart.waiting(),
            intake_sessions: self.0.intake_sessions.get(),
            revision: heart.snapshot().revision.0,
            recovering: heart.is_recovering(),
            draining: self.0.draining.get(),
            leaving: heart.leaving(self.0.platform.now()),
            submissions: self.0.submissions.get(),
            spool_bytes: spool.bytes,
            spool_segments: spool.segments,
            journal_bytes: self.0.journal.bytes(),
            journal_unread_bytes: self.0.journal.unread_bytes(),
            refusing: spool.refusing.or_else(|| self.0.journal.refusal()),
            damaged: spool.damaged,
        }
    }
}
