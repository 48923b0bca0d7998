//! What an operator may ask of a running shard: try now, cancel, bounce. Suspensions are configuration (see rules).

use postrail_schema::allocation::HostName;
use postrail_schema::ids::MessageId;

use super::{Ending, GroupState, JobRef, Shard, Standing};
use crate::base::Moment;
use crate::schedule::WaitReason;

/// A command, once for all groups that its target names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Try waiting mail now.
    Retry(CommandTarget),
    /// Settle what has not been sent as cancelled.
    Cancel(MessageId),
    /// Settle what has not been sent as bounced, and tell the sender.
    Bounce(MessageId),
    /// Send what waits in quarantine.
    Release(MessageId),
    /// Settle what waits in quarantine as cancelled.
    Drop(MessageId),
}

/// Which groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandTarget {
    All,
    Message(MessageId),
    /// A recipient domain.
    Domain(String),
    /// A site by name.
    Site(String),
}

/// A command came too early: the job has been offered to another host, which may have it or not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the job is on its way to host {to}")]
pub struct BeingMoved {
    pub to: HostName,
}

impl Shard {
    /// Carries out `command`; returns how many recipients it concerns.
    ///
    /// # Errors
    /// The job is on its way to another host: whose it is will be known soon.
    pub fn command(&mut self, now: Moment, command: &Command) -> Result<usize, BeingMoved> {
        if let Command::Cancel(message) | Command::Bounce(message) | Command::Release(message) | Command::Drop(message) =
            command
            && let Some(to) = self.transfers.bound_to(*message)
        {
            return Err(BeingMoved { to: to.clone() });
        }
        let concerned = match command {
            Command::Retry(target) => self.retry_now(now, target),
            Command::Cancel(message) => self.end_message(now, *message, Ending::Cancel),
            Command::Bounce(message) => self.end_message(now, *message, Ending::Bounce),
            Command::Release(message) => self.release(now, *message),
            Command::Drop(message) if !self.is_quarantined(*message) => 0,
            Command::Drop(message) => self.end_message(now, *message, Ending::Drop),
        };
        self.serve_freed(now);
        Ok(concerned)
    }

    fn retry_now(&mut self, now: Moment, target: &CommandTarget) -> usize {
        let domain = match target {
            CommandTarget::Domain(name) => self.domains.find(name),
            _ => None,
        };
        for (_, path) in &mut self.paths {
            let named = match target {
                CommandTarget::Site(name) => *path.key.site.0 == **name,
                _ => true,
            };
            if named {
                path.retry_now();
            }
        }
        let is_waiting = |state: GroupState| match state {
            GroupState::Scheduled { reason, .. } => matches!(reason, WaitReason::Retry | WaitReason::SiteBackoff),
            _ => false,
        };
        let concerns = |shard: &Self, group: &super::Group| match target {
            CommandTarget::All => true,
            CommandTarget::Message(message) => shard.message_of(group) == Some(*message),
            CommandTarget::Domain(_) => Some(group.domain) == domain,
            CommandTarget::Site(name) => {
                let hosts = shard.domains.slot(group.domain).hosts.as_ref();
                hosts.is_some_and(|hosts| *hosts.site.0 == **name)
            }
        };
        let groups: Vec<u32> = self
            .groups
            .iter()
            .filter(|(_, group)| is_waiting(group.state) && concerns(self, group))
            .map(|(id, _)| id as u32)
            .collect();
        let mut recipients = 0;
        for group in groups {
            recipients += self.groups[group as usize].recipients.len();
            self.detach(group);
            self.route(now, group);
        }
        recipients
    }

    fn is_quarantined(&self, message: MessageId) -> bool {
        self.job_of(message).is_some_and(|job| self.jobs[job as usize].is_quarantined())
    }

    fn release(&mut self, now: Moment, message: MessageId) -> usize {
        let held = self.job_of(message).filter(|job| self.jobs[*job as usize].is_quarantined());
        let Some(job) = held else { return 0 };
        self.jobs[job as usize].standing = Standing::Free;
        let groups: Vec<u32> = self.groups_in(job).collect();
        let mut released = 0;
        for group in groups {
            let recipients = self.groups[group as usize].recipients.clone();
            released += recipients.len();
            self.record_release(now, job, &recipients);
            self.detach(group);
            self.route(now, group);
        }
        released
    }

    fn end_message(&mut self, now: Moment, message: MessageId, ending: Ending) -> usize {
        let Some(job) = self.job_of(message) else { return 0 };
        let concerned = usize::from(self.jobs[job as usize].open);
        self.jobs[job as usize].standing = Standing::Ending(ending);
        self.recall(job);
        let waits = |id: &u32| matches!(self.groups[*id as usize].state, GroupState::Scheduled { .. });
        let groups: Vec<u32> = self.groups_in(job).filter(waits).collect();
        for group in groups {
            self.detach(group);
            self.end_by_operator(now, group, ending);
        }
        concerned
    }

    fn message_of(&self, group: &super::Group) -> Option<MessageId> {
        match group.job {
            JobRef::Local(job) => Some(self.jobs[job as usize].id),
            JobRef::Remote(_) => None,
        }
    }
}
