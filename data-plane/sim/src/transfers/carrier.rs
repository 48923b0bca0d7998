//! Brings parcels from host to host as a network does: late, not at all, twice, or without an answer.
//!
//! What is on its way to a process ends with it, as a connection does: no copy that was sent to one life of a host comes to
//! its next. A copy that its giver waits for no more still arrives, and its second copy may come after newer parcels.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use postrail_core::base::Random;
use postrail_core::spool::Location;
use postrail_core::transfer::parcel::{Draft, Parcel, Sent};
use postrail_core::transfer::{Fate, Offer, OfferedJob};
use postrail_data_plane::mesh::{Mesh, Question, Reply};
use postrail_data_plane::platform::Platform;
use postrail_data_plane::transfer::{Arrival, Departure};
use postrail_schema::ids::{MessageId, ShardId};

use super::judge::{Note, Notes};
use crate::{NodeId, SimPlatform};

/// What lies between the hosts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wire(Rc<Inner>);

struct Inner {
    platform: SimPlatform,
    random: RefCell<Random>,
    lives: RefCell<BTreeMap<String, Life>>,
    notes: Notes,
    is_rough: Cell<bool>,
    /// Hosts that are to crash now, since a parcel of theirs is in question.
    doomed: RefCell<Vec<NodeId>>,
}

/// The present life of a host, or that it is down.
#[derive(Clone)]
struct Life {
    number: u64,
    node: NodeId,
    mesh: Option<Mesh>,
}

impl Wire {
    pub(super) fn new(platform: SimPlatform, random: Random, notes: Notes, is_rough: bool) -> Self {
        let (random, is_rough) = (RefCell::new(random), Cell::new(is_rough));
        let (lives, doomed) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Inner { platform, random, lives, notes, is_rough, doomed }))
    }

    pub(super) fn began(&self, host: &str, node: NodeId, mesh: Mesh) {
        let mut lives = self.0.lives.borrow_mut();
        let number = lives.get(host).map_or(0, |life| life.number + 1);
        lives.insert(host.to_owned(), Life { number, node, mesh: Some(mesh) });
    }

    pub(super) fn ended(&self, host: &str) {
        if let Some(life) = self.0.lives.borrow_mut().get_mut(host) {
            life.mesh = None;
        }
    }

    /// Nothing is lost, doubled or late any more.
    pub(super) fn calm(&self) {
        self.0.is_rough.set(false);
    }

    /// Hosts that are to crash now.
    pub(super) fn doomed(&self) -> Vec<NodeId> {
        self.0.doomed.take()
    }

    fn life(&self, host: &str) -> Option<Life> {
        self.0.lives.borrow().get(host).filter(|life| life.mesh.is_some()).cloned()
    }

    /// Whether something goes wrong that does in so many of a hundred cases.
    fn errs(&self, percent: u64) -> bool {
        self.0.is_rough.get() && self.0.random.borrow_mut().chance(percent)
    }

    /// How long something is on its way; now and then long.
    fn delay(&self, long: Duration) -> Duration {
        let most = if self.errs(10) { long } else { Duration::from_millis(50) };
        Duration::from_micros(self.0.random.borrow_mut().below(most.as_micros() as u64))
    }

    /// Brings a copy to that life of a host, and the answer to who waits for it.
    async fn bring(
        self,
        giver: NodeId,
        host: String,
        life: u64,
        parcel: Bytes,
        late: Duration,
        answer: Sender<Arrival>,
    ) {
        let Inner { platform, notes, .. } = &*self.0;
        platform.sleep_until(platform.now() + late).await;
        let Some(taker) = self.life(&host).filter(|taker| taker.number == life) else { return };
        let Some(mesh) = taker.mesh else { return };
        let read = Parcel::decode(&parcel).expect("the giver has packed it");
        let messages = jobs(&read);
        notes.add(platform.now(), Note::Brought { jobs: messages.len() });
        let reply = mesh.ask(ShardId(0), Question::Take(Box::new(read))).await;
        let arrival = match reply {
            Some(Reply::Arrival(arrival)) => Some(arrival),
            Some(reply) => panic!("a parcel was answered with {reply:?}"),
            None => None,
        };
        // Who ended while it worked on a parcel may have taken any of it; so may who could not say.
        let had = match &arrival {
            None | Some(Arrival::Refused(_)) => messages,
            Some(Arrival::Answered(octets)) => taken(&parcel, octets),
            Some(Arrival::Busy | Arrival::Stale { .. }) => Vec::new(),
        };
        if !had.is_empty() {
            notes.add(platform.now(), Note::Taken { giver, taker: taker.node, messages: had });
        }
        // Some crashes come while the giver does not know yet.
        if self.errs(4) {
            let whose = if self.errs(50) { giver } else { taker.node };
            self.0.doomed.borrow_mut().push(whose);
        }
        let Some(arrival) = arrival else { return };
        if self.errs(15) {
            return;
        }
        platform.sleep_until(platform.now() + self.delay(Duration::from_secs(20))).await;
        let _ = answer.try_send(arrival);
    }
}

/// The carrier of one life of a host.
pub(super) struct Carrier {
    platform: SimPlatform,
    wire: Wire,
    node: NodeId,
}

impl Carrier {
    pub(super) fn new(platform: SimPlatform, node: NodeId, wire: Wire) -> Self {
        Self { platform, wire, node }
    }

    pub(super) async fn run(self, departures: Receiver<Departure>) {
        while let Ok(departure) = departures.recv().await {
            let (platform, wire, node) = (self.platform.clone(), self.wire.clone(), self.node);
            self.platform.spawn("carrier, parcel", carry(platform, wire, node, departure));
        }
    }
}

/// Sends one parcel, and waits for its answer as long as a carrier does.
async fn carry(platform: SimPlatform, wire: Wire, node: NodeId, departure: Departure) {
    let Departure { to, parcel, answer } = departure;
    platform.sleep_until(platform.now() + wire.delay(Duration::from_secs(5))).await;
    let Some(life) = wire.life(to.as_str()).map(|life| life.number) else {
        // Refused at once, or silence.
        if wire.errs(50) {
            platform.sleep_until(platform.now() + PATIENCE).await;
        }
        return;
    };
    let (sender, answers) = async_channel::bounded(2);
    let bring = |late| wire.clone().bring(node, to.as_str().to_owned(), life, parcel.clone(), late, sender.clone());
    if !wire.errs(15) {
        wire.0.platform.spawn("wire", bring(wire.delay(Duration::from_secs(40))));
    }
    if wire.errs(15) {
        let late = wire.delay(Duration::from_secs(60)) + wire.delay(Duration::from_secs(60));
        wire.0.platform.spawn("wire, second copy", bring(late));
    }
    drop(sender);
    if let Some(Ok(arrival)) = platform.timeout(PATIENCE, answers.recv()).await {
        let told = match &arrival {
            Arrival::Answered(octets) => taken(&parcel, octets),
            _ => Vec::new(),
        };
        if answer.try_send(arrival).is_ok() && !told.is_empty() {
            let taker = wire.0.lives.borrow().get(to.as_str()).map(|life| life.node);
            let taker = taker.expect("a host that has answered has lived");
            wire.0.notes.add(platform.now(), Note::Told { giver: node, taker, messages: told });
        }
    }
}

fn jobs(parcel: &Parcel) -> Vec<MessageId> {
    parcel.jobs.iter().map(|job| job.message).collect()
}

/// The jobs of a parcel that were taken, by the answer to it.
fn taken(parcel: &Bytes, answer: &[u8]) -> Vec<MessageId> {
    let Ok(parcel) = Parcel::decode(parcel) else { return Vec::new() };
    let fates = sent(&parcel).fates(parcel.turn, answer).unwrap_or_default();
    parcel.jobs.iter().zip(fates).filter(|(_, fate)| *fate == Fate::Taken).map(|(job, _)| job.message).collect()
}

/// What tells the answer to a parcel, made of the parcel: the giver keeps its own to itself.
fn sent(parcel: &Parcel) -> Sent {
    let location = Location::default();
    let job = |job: &MessageId| OfferedJob { message: *job, at: location, hop: 0, is_noted: true };
    let jobs = jobs(parcel).iter().map(job).collect();
    let offer = Offer { to: parcel.giver.clone(), turn: parcel.turn, is_leaving: false, jobs };
    let mut draft = Draft::new(&parcel.giver, parcel.shard, &offer);
    parcel.jobs.iter().for_each(|job| draft.push(job.message, job.hop, Some(b"x")));
    draft.finish().1
}

/// How long a carrier waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
