//! Offers on their way out.

use async_channel::Sender;
use bytes::Bytes;
use postrail_core::shard::Input;
use postrail_core::spool::job_frame;
use postrail_core::transfer::parcel::{Draft, Sent};
use postrail_core::transfer::{Answer, Note, NoteKind, Offer, OfferedJob};
use postrail_schema::allocation::HostName;
use postrail_schema::limits::TRANSFER_ANSWER_WAIT;

use super::{Arrival, Departure};
use crate::platform::Platform;
use crate::shard::Runtime;
use crate::spool::JobOwner;

impl<P: Platform> Runtime<P> {
    /// Makes an offer and gives the core its answer.
    pub(crate) async fn offer(self, offer: Box<Offer>) {
        self.note_bound(&offer).await;
        let answer = match self.send_offer(&offer).await {
            Some(answer) => answer,
            None => Answer::Unknown { turn: None },
        };
        self.input(Input::Answered { turn: offer.turn, answer });
    }

    /// From here on nobody but that host is offered the jobs, whatever happens to this process.
    async fn note_bound(&self, offer: &Offer) {
        let bound = |job: &OfferedJob| {
            let kind = NoteKind::Bound(offer.to.clone());
            Note { message: job.message, hop: job.hop, kind }
        };
        let notes: Vec<Note> = offer.jobs.iter().filter(|job| !job.is_noted).map(bound).collect();
        if !notes.is_empty() {
            self.note(notes).await;
        }
    }

    /// `None`: whether the host took anything of it is not known.
    async fn send_offer(&self, offer: &Offer) -> Option<Answer> {
        let giver = HostName::new(self.node().listening.name.clone()).ok()?;
        // Held until the answer is in: so many parcels are in memory at once.
        let _place = Place::take(self.offers()).await?;
        let (parcel, sent) = self.pack(&giver, offer).await;
        let (answer, answers) = async_channel::bounded(1);
        let departure = Departure { to: offer.to.clone(), parcel, answer };
        let answered = async {
            self.node().departures.send(departure).await.ok()?;
            answers.recv().await.ok()
        };
        let arrival = self.platform().timeout(TRANSFER_ANSWER_WAIT, answered).await.flatten()?;
        match arrival {
            Arrival::Answered(octets) => match sent.fates(offer.turn, &octets) {
                Ok(fates) => return Some(Answer::Fates(fates)),
                Err(error) => tracing::warn!(host = %offer.to, %error, "the answer to a transfer is not understood"),
            },
            Arrival::Stale { turn } => return Some(Answer::Unknown { turn: Some(turn) }),
            Arrival::Busy => tracing::debug!(host = %offer.to, "the host is busy with a transfer"),
            Arrival::Refused(why) => tracing::debug!(host = %offer.to, why, "a transfer was not answered"),
        }
        None
    }

    async fn pack(&self, giver: &HostName, offer: &Offer) -> (Bytes, Sent) {
        let mut draft = Draft::new(giver, self.id(), offer);
        for job in &offer.jobs {
            let hop = job.hop.saturating_add(1);
            let octets = match self.spool().load(job.at).await {
                Ok(loaded) => {
                    let progress = self.carried_state(job.message, loaded.recipients.len());
                    Some(job_frame::encode_parcel_job(&loaded, hop, &progress))
                }
                Err(error) => {
                    tracing::error!(message = %job.message, %error, "cannot read a job that is to go to another host");
                    None
                }
            };
            draft.push(job.message, hop, octets.as_deref());
        }
        draft.finish()
    }
}

/// One of the places for parcels in memory.
struct Place(async_channel::Receiver<()>);

impl Place {
    async fn take((places, free): &(Sender<()>, async_channel::Receiver<()>)) -> Option<Self> {
        places.send(()).await.ok()?;
        Some(Self(free.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}
