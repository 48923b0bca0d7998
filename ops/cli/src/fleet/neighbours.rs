//! What a data plane of a fleet knows of the other hosts of its region: where mail that waits here could go.
//!
//! ```text
//! hosts/  orders/  allocation/grants/ --watched---\            /--Neighbours--> shards
//!                                                  +--> Seen --+
//! holding/ --read by period, and when hosts change-/            \--where they listen--> carrier
//! ```
//!
//! `holding/` is not watched: every host writes it with each keepalive, and what counts here (that a host exists, its
//! region, whether it is live) changes seldom, and mostly with one of the other three.
//!
//! Invariants worth naming: nothing is told before all four were read; while the store is out of reach what was told last
//! stays; a host is known from its first record until an operator has had it forgotten, whether it runs or not, since mail
//! may be bound to it. One that is missing is taken to be forgotten after a while only: a store that was restored from a
//! snapshot does not have all of them until they speak. Absent here: what goes where (the core).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use postrail_control_plane::store::{Change, ConfigStore, Listing, Watch, WatchEvent};
use postrail_core::transfer::{Neighbour, Neighbours};
use postrail_schema::allocation::{Grant, HostName, HostRecord, HostState, Order, Standing};
use postrail_schema::host::HostAnnouncement;
use postrail_schema::keys::{GRANTS, HOLDING, HOSTS, ORDERS};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

/// Where hosts listen, by name.
pub(crate) type Listening = BTreeMap<HostName, String>;

/// See the module head.
pub(crate) struct Watcher<T> {
    store: Arc<dyn ConfigStore>,
    own: HostName,
    region: String,
    seen: Seen,
    listening: watch::Sender<Arc<Listening>>,
    /// Tells the shards.
    tell: T,
    told: Option<Arc<Neighbours>>,
    missing: Missing,
}

impl<T: Fn(&Arc<Neighbours>) + Send> Watcher<T> {
    /// `own`: this host's name, `region`: what it is in.
    pub(crate) fn new(store: Arc<dyn ConfigStore>, own: HostName, region: String, tell: T) -> Self {
        Self {
            store,
            own,
            region,
            seen: Seen::default(),
            listening: watch::Sender::default(),
            tell,
            told: None,
            missing: Missing::default(),
        }
    }

    /// Where the hosts listen that `tell` tells of.
    pub(crate) fn listening(&self) -> watch::Receiver<Arc<Listening>> {
        self.listening.subscribe()
    }

    /// Runs until `stop` is true.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut is_warned = false;
        loop {
            let followed = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                followed = self.follow() => followed,
            };
            match followed {
                Ok(()) => is_warned = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_warned, true) {
                        warn!(error = format!("{error:#}"), "the other hosts are not known anew; what was known stays");
                    }
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => return,
                        () = sleep(PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Reads everything and follows what changes, until that has to begin again.
    async fn follow(&mut self) -> Result<()> {
        let mut seen = Seen::default();
        // The grants before the records, as control planes read them: a host that has grants has a record.
        let mut hosts = self.begin(HOSTS, |listing| seen.running = Part::of(HOSTS, &listing)).await?;
        let mut orders = self.begin(ORDERS, |listing| seen.orders = Part::of(ORDERS, &listing)).await?;
        let mut grants = self.begin(GRANTS, |listing| seen.grants = Part::of(GRANTS, &listing)).await?;
        let listing = self.list(HOLDING).await?;
        seen.records = Part::of(HOLDING, &listing);
        let (mut revision, mut look) = (listing.revision, Instant::now() + LOOK_PERIOD);
        // One that went back may have overtaken what was seen of it before it was looked at.
        let end = Instant::now() + READ_PERIOD;
        self.seen = seen;
        self.conclude()?;
        loop {
            let event = tokio::select! {
                event = hosts.next() => event,
                event = orders.next() => event,
                event = grants.next() => event,
                () = sleep_until(look) => {
                    let listing = self.list(HOLDING).await?;
                    // A store that was restored from a snapshot tells nothing of what it has not any more.
                    if listing.revision < revision || Instant::now() > end {
                        return Ok(());
                    }
                    self.seen.records = Part::of(HOLDING, &listing);
                    (revision, look) = (listing.revision, Instant::now() + LOOK_PERIOD);
                    self.conclude()?;
                    continue;
                }
            };
            match event {
                None => return Ok(()),
                Some(WatchEvent::Alive | WatchEvent::Lost) => {}
                Some(WatchEvent::Changes { changes, .. }) => {
                    if changes.iter().any(|change| !change.key.starts_with(GRANTS)) {
                        look = Instant::now();
                    }
                    changes.iter().for_each(|change| self.seen.change(change));
                    self.conclude()?;
                }
            }
        }
    }

    /// What is under `prefix` now, to `read`, and what changes there from then on.
    async fn begin(&self, prefix: &'static str, read: impl FnOnce(Listing)) -> Result<Watch> {
        let listing = self.list(prefix).await?;
        let watch = self.store.watch(prefix, listing.revision);
        read(listing);
        Ok(watch)
    }

    async fn list(&self, prefix: &'static str) -> Result<Listing> {
        let store = Arc::clone(&self.store);
        let listing = tokio::task::spawn_blocking(move || store.list(prefix)).await;
        listing.map_err(|_| anyhow!("the thread of the store ended"))?.with_context(|| format!("cannot read {prefix}"))
    }

    /// Tells what follows from what is seen, where that differs from what was told last.
    fn conclude(&mut self) -> Result<()> {
        let mut neighbours = self.seen.neighbours(&self.own, &self.region);
        if let Some(told) = &self.told {
            self.missing.add(told, &mut neighbours, Instant::now());
        }
        // To leave some out would be to say that they were forgotten; that there are not many more is seen to where they begin.
        let listening = self.seen.listening(&neighbours);
        self.listening.send_if_modified(|last| {
            let differs = **last != listening;
            if differs {
                *last = Arc::new(listening);
            }
            differs
        });
        if self.told.as_deref() != Some(&neighbours) {
            let neighbours = Arc::new(neighbours);
            (self.tell)(&neighbours);
            self.told = Some(neighbours);
        }
        Ok(())
    }
}

/// What the store says of hosts.
#[derive(Default)]
struct Seen {
    running: Part<HostAnnouncement>,
    records: Part<HostRecord>,
    grants: Part<Vec<Grant>>,
    orders: Part<Order>,
}

impl Seen {
    fn change(&mut self, change: &Change) {
        self.running.change(HOSTS, change);
        self.orders.change(ORDERS, change);
        self.grants.change(GRANTS, change);
    }

    /// The hosts of `region` but for `own`, and how it is with that one.
    fn neighbours(&self, own: &HostName, region: &str) -> Neighbours {
        let names: BTreeSet<_> =
            self.running.0.keys().chain(self.records.0.keys()).chain(self.grants.0.keys()).collect();
        let ours = |name: &&&HostName| **name != own && self.region(name).is_none_or(|theirs| theirs == region);
        let names: Vec<_> = names.iter().filter(ours).collect();
        let is_kept =
            |name: &HostName| self.is_leaving(name) && self.has_addresses(name) && self.running.get(name).is_some();
        Neighbours {
            is_leaving: self.is_leaving(own),
            has_addresses: self.has_addresses(own),
            is_other_kept: names.iter().any(|name| is_kept(name)),
            hosts: names.iter().map(|name| self.neighbour(name)).collect(),
        }
    }

    fn is_leaving(&self, name: &HostName) -> bool {
        self.orders.get(name) == Some(&Order::Drain)
    }

    /// Whether it is given some, those included that are asked back. Grants that cannot be read are some nevertheless.
    fn has_addresses(&self, name: &HostName) -> bool {
        self.grants.0.get(name).is_some_and(|it| it.as_ref().is_none_or(|grants| !grants.is_empty()))
    }

    fn neighbour(&self, name: &HostName) -> Neighbour {
        let is_live = self.records.get(name).is_some_and(|record| record.state == HostState::Live);
        let grants = self.grants.get(name).into_iter().flatten();
        Neighbour {
            name: name.clone(),
            // An order that cannot be read is one nevertheless.
            takes: is_live && self.running.get(name).is_some() && !self.orders.0.contains_key(name),
            addresses: grants.filter(|it| it.standing == Standing::Held).map(|grant| grant.address).collect(),
        }
    }

    /// `None`: it has not said, so that it does not take anything either.
    fn region(&self, name: &HostName) -> Option<&str> {
        match self.records.get(name) {
            Some(record) => Some(record.announcement.region.as_deref().unwrap_or_default()),
            None => self.running.get(name).map(|running| running.region.as_str()),
        }
    }

    fn listening(&self, neighbours: &Neighbours) -> Listening {
        let at = |it: &Neighbour| Some((it.name.clone(), self.running.get(&it.name)?.admin.clone()));
        neighbours.hosts.iter().filter_map(at).collect()
    }
}

/// Since when hosts that were known are not there any more.
#[derive(Default)]
struct Missing(BTreeMap<HostName, Instant>);

impl Missing {
    /// Adds to `neighbours` who is in `last` and is not missing for long, as taking nothing.
    fn add(&mut self, last: &Neighbours, neighbours: &mut Neighbours, now: Instant) {
        let there: BTreeSet<_> = neighbours.hosts.iter().map(|it| it.name.clone()).collect();
        self.0.retain(|name, _| !there.contains(name));
        for host in last.hosts.iter().filter(|it| !there.contains(&it.name)) {
            let since = *self.0.entry(host.name.clone()).or_insert(now);
            if now.duration_since(since) < FORGOTTEN_AFTER {
                neighbours.hosts.push(Neighbour { takes: false, ..host.clone() });
            } else {
                self.0.remove(&host.name);
            }
        }
        neighbours.hosts.sort_by(|one, other| one.name.cmp(&other.name));
    }
}

/// What is under one prefix, by host; `None`: there is something that cannot be read, of a later version perhaps.
struct Part<V>(BTreeMap<HostName, Option<V>>);

impl<V> Default for Part<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: DeserializeOwned> Part<V> {
    fn of(prefix: &str, listing: &Listing) -> Self {
        let mut part = Self::default();
        listing.entries.iter().for_each(|entry| part.put(prefix, &entry.key, &entry.value));
        part
    }

    fn get(&self, name: &HostName) -> Option<&V> {
        self.0.get(name)?.as_ref()
    }

    fn change(&mut self, prefix: &str, change: &Change) {
        match &change.value {
            Some(value) => self.put(prefix, &change.key, value),
            None => {
                if let Some(name) = name(prefix, &change.key) {
                    self.0.remove(&name);
                }
            }
        }
    }

    fn put(&mut self, prefix: &str, key: &str, value: &[u8]) {
        if let Some(name) = name(prefix, key) {
            let read =
                serde_json::from_slice(value).inspect_err(|error| warn!(key, %error, "what a host says is not read"));
            self.0.insert(name, read.ok());
        }
    }
}

fn name(prefix: &str, key: &str) -> Option<HostName> {
    HostName::new(key.strip_prefix(prefix)?).ok()
}

/// Between two readings of `holding/`, when nothing else changes.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// Between two readings of everything.
const READ_PERIOD: Duration = Duration::from_secs(60);
/// So long a host is missing before it counts as forgotten: keepalives of a usual lease are seconds apart.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Between two beginnings, where the store fails.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use postrail_control_plane::store::{EmbeddedStore, Write};
    use postrail_schema::allocation::{Announcement, Carrier, Tenure};
    use postrail_schema::ids::HostId;
    use postrail_schema::keys::{grants, holding, host as running, order};
    use serde::Serialize;

    use super::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).expect("a host's name")
    }

    fn record(state: HostState, region: Option<&str>) -> HostRecord {
        let announcement = Announcement { region: region.map(str::to_owned), ..Announcement::default() };
        let (incarnation, sequence, released) = (1, 1, Vec::new());
        HostRecord { incarnation, sequence, lease_ms: 10_000, state, released, announcement, held: None }
    }

    fn announcement(name: &str, region: &str) -> HostAnnouncement {
        HostAnnouncement {
            id: HostId(1),
            admin: format!("https://{name}.example:8082"),
            region: region.to_owned(),
            shards: 1,
            master_keys: Vec::new(),
            receiver_authorities: None,
            snapshot_format: 0,
            version: "1".to_owned(),
        }
    }

    fn grant(last: u8, standing: Standing) -> Grant {
        let (tenure, carrier) = (Tenure::Leased, Carrier::HostChoice);
        Grant { address: [192, 0, 2, last].into(), epoch: 1, tenure, standing, next: None, carrier }
    }

    fn seen(entries: &[(&str, Vec<u8>)]) -> Seen {
        let mut seen = Seen::default();
        for (key, value) in entries {
            let change = Change { key: (*key).to_owned(), value: Some(value.clone()) };
            seen.change(&change);
            seen.records.change(HOLDING, &change);
        }
        seen
    }

    fn json(value: &impl Serialize) -> Vec<u8> {
        serde_json::to_vec(value).expect("JSON")
    }

    /// The names of the neighbours of `own`, those that take with a `+`.
    fn names(seen: &Seen, region: &str) -> Vec<String> {
        let neighbours = seen.neighbours(&host("own"), region);
        neighbours.hosts.iter().map(|it| format!("{}{}", it.name, if it.takes { "+" } else { "" })).collect()
    }

    #[test]
    fn a_host_takes_mail_while_it_runs_and_is_live_and_nobody_has_ordered_anything_of_it() {
        use HostState::{Joining, Live, Stopped};
        let every = |name: &str, state| {
            [(holding(&host(name)), json(&record(state, None))), (running(name), json(&announcement(name, "")))]
        };
        let mut entries: Vec<(String, Vec<u8>)> = ["own", "runs", "drains", "is-off", "puzzles"]
            .iter()
            .flat_map(|name| every(name, Live))
            .chain([("joins", Joining), ("stops", Stopped)].iter().flat_map(|(name, state)| every(name, *state)))
            .collect();
        entries.push((holding(&host("dead")), json(&record(Live, None))));
        entries.push((order(&host("drains")), json(&Order::Drain)));
        entries.push((order(&host("is-off")), json(&Order::Forget)));
        entries.push((order(&host("puzzles")), b"\"paint\"".to_vec()));
        let borrowed: Vec<_> = entries.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let seen = seen(&borrowed);
        assert_eq!(names(&seen, ""), ["dead", "drains", "is-off", "joins", "puzzles", "runs+", "stops"]);
        assert!(!seen.neighbours(&host("own"), "").is_leaving);
        assert!(seen.neighbours(&host("drains"), "").is_leaving);
        // What the others are told of it: that it is there, and takes nothing.
        let listening = seen.listening(&seen.neighbours(&host("own"), ""));
        assert!(!listening.contains_key(&host("dead")) && !listening.contains_key(&host("own")));
        assert_eq!(listening[&host("drains")], "https://drains.example:8082");
    }

    #[test]
    fn only_hosts_of_the_own_region_are_neighbours_and_a_dead_one_is_of_the_region_that_it_said() {
        let live = |region| json(&record(HostState::Live, region));
        let seen = seen(&[
            ("holding/eu-1", live(Some("eu"))),
            ("hosts/eu-1", json(&announcement("eu-1", "eu"))),
            ("holding/eu-2", live(Some("eu"))),
            ("holding/us-1", live(Some("us"))),
            ("holding/none-1", live(None)),
            // Its record was lost with the store: its region is what it announces.
            ("hosts/eu-3", json(&announcement("eu-3", "eu"))),
            ("hosts/us-3", json(&announcement("us-3", "us"))),
            // Nothing is known of this one but that it has addresses: mail may be bound to it.
            ("allocation/grants/lost", json(&[grant(9, Standing::Held)])),
        ]);
        assert_eq!(names(&seen, "eu"), ["eu-1+", "eu-2", "eu-3", "lost"]);
        assert_eq!(names(&seen, ""), ["lost", "none-1"]);
    }

    #[test]
    fn an_address_is_where_it_is_held_and_nowhere_while_it_passes_on() {
        let grants = [grant(1, Standing::Held), grant(2, Standing::Releasing), grant(3, Standing::Held)];
        let seen = seen(&[
            ("holding/one", json(&record(HostState::Live, None))),
            ("allocation/grants/one", json(&grants)),
            ("allocation/epoch", b"7".to_vec()),
        ]);
        let neighbours = seen.neighbours(&host("own"), "");
        let [one] = neighbours.hosts.as_slice() else { panic!("{neighbours:?}") };
        assert_eq!(one.addresses, [1, 3].map(|last| [192, 0, 2, last].into()).into());
        assert!(!neighbours.has_addresses);
        for grants in [json(&[grant(2, Standing::Releasing)]), b"\"of a later version\"".to_vec()] {
            let asked_back = self::seen(&[("allocation/grants/own", grants)]);
            assert!(asked_back.neighbours(&host("own"), "").has_addresses, "until it has given them up");
        }
    }

    #[test]
    fn another_host_that_is_drained_is_kept_while_it_runs_and_has_addresses() {
        let all = [
            ("hosts/one", json(&announcement("one", ""))),
            ("orders/one", json(&Order::Drain)),
            ("allocation/grants/one", json(&[grant(1, Standing::Releasing)])),
        ];
        assert!(seen(&all).neighbours(&host("own"), "").is_other_kept);
        assert!(!seen(&all).neighbours(&host("own"), "eu").is_other_kept, "it is of another region");
        for missing in 0..all.len() {
            let mut fewer = all.to_vec();
            fewer.remove(missing);
            let fewer = seen(&fewer).neighbours(&host("own"), "");
            assert!(!fewer.is_other_kept, "{} is missing", all[missing].0);
        }
    }

    #[test]
    fn a_host_that_is_missing_counts_as_forgotten_after_a_while_and_as_there_when_it_is_back() {
        let live = |name: &'static str| (name, json(&record(HostState::Live, None)));
        let both = seen(&[live("holding/one"), live("holding/two"), ("hosts/two", json(&announcement("two", "")))]);
        let both = both.neighbours(&host("own"), "");
        let fewer = seen(&[live("holding/one")]).neighbours(&host("own"), "");
        let (mut missing, begun) = (Missing::default(), Instant::now());
        let mut look = |last: &Neighbours, present: &Neighbours, after: Duration| {
            let mut present = present.clone();
            missing.add(last, &mut present, begun + after);
            present
        };
        let kept = look(&both, &fewer, Duration::ZERO);
        assert_eq!(
            kept.hosts.iter().map(|it| (it.name.as_str(), it.takes)).collect::<Vec<_>>(),
            [("one", false), ("two", false)]
        );
        assert_eq!(look(&kept, &both, FORGOTTEN_AFTER / 2), both);
        assert_eq!(look(&both, &fewer, FORGOTTEN_AFTER), kept, "it has been there meanwhile");
        assert_eq!(look(&kept, &fewer, FORGOTTEN_AFTER * 2), fewer);
    }

    #[tokio::test]
    async fn shards_are_told_what_has_changed_and_nothing_of_keepalives() {
        let folder = std::env::temp_dir().join(format!("postrail-neighbours-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.join("store.db")).expect("a store"));
        let write = |key: String, value: Option<Vec<u8>>| {
            let write = match value {
                Some(value) => Write::Put { key, value },
                None => Write::Delete { key },
            };
            store.txn(&[], &[write]).expect("written");
        };
        let other = host("other");
        write(holding(&other), Some(json(&record(HostState::Live, None))));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let watcher = Watcher::new(Arc::clone(&store), host("own"), String::new(), move |neighbours| {
            let _ = tell.send(Arc::clone(neighbours));
        });
        let listening = watcher.listening();
        let (stop, stopped) = watch::channel(false);
        let running_task = tokio::spawn(watcher.run(stopped));
        let mut next = async || {
            let next = tokio::time::timeout(Duration::from_secs(30), told.recv()).await;
            let neighbours = next.expect("something is told").expect("the task runs");
            let [other] = neighbours.hosts.as_slice() else { panic!("{neighbours:?}") };
            (other.takes, other.addresses.len())
        };
        assert_eq!(next().await, (false, 0), "everything was read");
        write(running("other"), Some(json(&announcement("other", ""))));
        assert_eq!(next().await, (true, 0));
        assert_eq!(listening.borrow()[&other], "https://other.example:8082");
        // A keepalive, and then something that counts: one is told.
        write(holding(&other), Some(json(&HostRecord { sequence: 2, ..record(HostState::Live, None) })));
        write(grants(&other), Some(json(&[grant(1, Standing::Held)])));
        assert_eq!(next().await, (true, 1));
        write(order(&other), Some(json(&Order::Drain)));
        assert_eq!(next().await, (false, 1));
        write(order(&other), None);
        assert_eq!(next().await, (true, 1));
        write(running("other"), None);
        assert_eq!(next().await, (false, 1));
        stop.send_replace(true);
        running_task.await.expect("it ends");
        std::fs::remove_dir_all(&folder).expect("our own folder");
    }
}
