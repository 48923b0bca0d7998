//! On both stores, at times that the tests give: nothing here waits for a clock.

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::store::EmbeddedStore;
use crate::store::suite::Etcd;

fn own(ledger: &str, server: Option<&str>, host: &str) -> LedgerUse {
    let [ledger, host] = [ledger, host].map(str::to_owned);
    let file = server.is_none().then(|| format!("boot:1:{ledger}"));
    LedgerUse {
        ledger,
        server: server.map(str::to_owned),
        file,
        host,
        api: "http://10.0.0.1:8081".to_owned(),
        master_keys: Vec::new(),
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Control planes on one store.
struct World {
    store: Arc<dyn ConfigStore>,
    runtime: Runtime,
    begun: Instant,
}

impl World {
    /// Runs `test` on each kind of store, empty.
    fn each(test: impl Fn(&Self)) {
        let folder = tempfile::tempdir().unwrap();
        let on = |store: Arc<dyn ConfigStore>| test(&Self { store, runtime: runtime(), begun: Instant::now() });
        on(Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap()));
        let etcd = Etcd::start(&[]);
        on(Arc::new(etcd.store()));
    }

    fn claim(&self, own: LedgerUse) -> LedgerClaim {
        LedgerClaim::new(self.store.as_ref(), "", own)
    }

    /// A start that is not to wait.
    fn take(&self, region: &str, own: LedgerUse) -> Result<LedgerClaim, AppError> {
        self.runtime.block_on(LedgerClaim::take(self.store.as_ref(), region, own))
    }

    fn refused(&self, own: LedgerUse) -> String {
        self.take("", own).err().expect("a refusal").to_string()
    }

    /// What a look at that second finds.
    fn look(&self, claim: &mut LedgerClaim, second: u64) -> LedgerLook {
        self.runtime.block_on(claim.look(self.begun + Duration::from_secs(second))).unwrap()
    }

    /// Whether the region is ours at that second.
    fn has(&self, claim: &mut LedgerClaim, second: u64) -> bool {
        matches!(self.look(claim, second), LedgerLook::Ours { .. })
    }

    /// The word of `first` lapses, and ten seconds later the region is another's.
    fn succeed(&self, first: &LedgerClaim, own: LedgerUse) -> LedgerClaim {
        self.lapse(first);
        let mut second = self.claim(own);
        assert!((0..10).all(|at| !self.has(&mut second, at)) && self.has(&mut second, 10));
        second
    }

    /// The control plane is cut off, or stands still, and its word lapses.
    fn lapse(&self, claim: &LedgerClaim) {
        let key = claim.word.as_ref().expect("a word").key.clone();
        self.store.txn(&[], &[Write::Delete { key }]).unwrap();
    }

    /// And is put again, later than all that was put meanwhile.
    fn say_again(&self, claim: &mut LedgerClaim) {
        let Word { key, hold } = claim.word.take().expect("a word");
        drop(hold);
        let mut hold = self.store.hold(&key, &serde_json::to_vec(&claim.own).unwrap(), TERM);
        self.runtime.block_on(hold.held());
        claim.word = Some(Word { key, hold });
    }

    fn words(&self) -> usize {
        self.store.list("ledgers/").unwrap().entries.len()
    }

    fn last(&self) -> Option<String> {
        last(self.store.as_ref(), "").unwrap().0.map(|last| last.ledger)
    }
}

const OURS: LedgerLook = LedgerLook::Ours { is_new: false, twin: None };
const NEWLY_OURS: LedgerLook = LedgerLook::Ours { is_new: true, twin: None };

fn kept(other: &LedgerUse) -> LedgerLook {
    LedgerLook::Other(OtherLedger::Kept(other.clone()))
}

fn was_last(used: &LedgerUse) -> LedgerLook {
    LedgerLook::Other(OtherLedger::Last { place: used.place() })
}

#[test]
fn a_region_has_one_ledger_that_several_share_where_it_can_be_shared() {
    World::each(|world| {
        let mut first = world.take("", own("a", Some("db"), "one")).unwrap();
        let mut second = world.take("", own("a", Some("db"), "two")).unwrap();
        let said = world.refused(own("b", Some("other"), "three"));
        assert!(said.contains("control plane one (http://10.0.0.1:8081) keeps it in PostgreSQL at db"), "{said}");
        assert!(said.contains("this one (three) has the one in PostgreSQL at other: start this one with the same"));
        assert_eq!(world.words(), 2, "who is refused leaves no word");
        let mut elsewhere = world.take("eu", own("c", None, "four")).unwrap();
        first.withdraw();
        assert!(world.refused(own("d", None, "five")).contains("control plane two"), "the ledger has not ended");
        second.withdraw();
        elsewhere.withdraw();
        assert_eq!((world.words(), world.last().as_deref()), (0, Some("a")));
    });
}

#[test]
fn a_file_is_one_control_planes_whatever_its_host_is_called() {
    World::each(|world| {
        let file = own("d", None, "five");
        let mut claims = [world.take("", file.clone()).unwrap(), world.take("", own("d", None, "six")).unwrap()];
        let copy = LedgerUse { file: Some("boot:1:2".to_owned()), ..file.clone() };
        assert!(world.refused(copy.clone()).contains("a copy of that one's file"));
        assert!(world.refused(own("a", Some("db"), "one")).contains("postrail move-ledger"));
        // Nor does a copy have the region in the gap after an outage of the store.
        claims.iter().for_each(|claim| world.lapse(claim));
        let mut copied = world.claim(copy.clone());
        assert_eq!(world.look(&mut copied, 0), was_last(&file));
        claims.iter_mut().for_each(|claim| world.say_again(claim));
        assert_eq!(world.look(&mut copied, 1), kept(&file));
        assert!(claims.iter_mut().all(|claim| world.has(claim, 1)));
        // The same file is there after a boot of its host, and nobody's beside another boot that goes on.
        let booted = LedgerUse { file: Some("later:1:d".to_owned()), ..file };
        assert!(world.refused(booted.clone()).contains("a copy of that one's file"));
        claims.iter_mut().for_each(LedgerClaim::withdraw);
        assert_eq!(world.look(&mut world.claim(booted), 2), NEWLY_OURS);
    });
}

#[test]
fn of_many_that_start_at_once_those_of_one_ledger_go_on() {
    World::each(|world| {
        let start = |store: &dyn ConfigStore, n: usize| {
            let own = own(["a", "b"][n % 2], Some("db"), &format!("host-{n}"));
            runtime().block_on(LedgerClaim::take(store, "", own)).ok()
        };
        let mut claims: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|n| (n, Arc::clone(&world.store))).collect();
            let starts = starts.into_iter().map(|(n, store)| scope.spawn(move || start(store.as_ref(), n)));
            starts.collect::<Vec<_>>().into_iter().filter_map(|start| start.join().unwrap()).collect()
        });
        assert!(!claims.is_empty());
        let ledger = claims[0].own.ledger.clone();
        assert!(claims.iter().all(|claim| claim.own.ledger == ledger), "of one ledger");
        assert!(claims.iter_mut().all(|claim| world.look(claim, 0) == OURS));
        assert_eq!((world.words(), world.last()), (claims.len(), Some(ledger)));
    });
}

#[test]
fn who_had_the_region_last_starts_at_once_and_another_after_a_while_in_which_nobody_did() {
    World::each(|world| {
        let [one, two] = [own("1", None, "one"), own("2", None, "two")];
        world.take("", one.clone()).unwrap().withdraw();
        let mut second = world.claim(two.clone());
        assert!((0..10).all(|at| world.look(&mut second, at) == was_last(&one)), "nine seconds are too few");
        // Whoever is back within the silence of another has the region still.
        let mut first = world.take("", one.clone()).unwrap();
        assert_eq!(world.look(&mut second, 10), kept(&one));
        first.withdraw();
        assert!((11..21).all(|at| world.look(&mut second, at) == was_last(&one)), "it counts from the beginning");
        assert_eq!(world.look(&mut second, 21), NEWLY_OURS);
        assert_eq!(world.look(&mut second, 22), OURS);
        assert_eq!(world.last().as_deref(), Some("2"));
        second.withdraw();

        // Who did not look did not hear.
        let mut first = world.claim(one);
        assert_eq!(world.look(&mut first, 30), was_last(&two));
        assert_eq!(world.look(&mut first, 60), was_last(&two));
        assert!((61..70).all(|at| world.look(&mut first, at) == was_last(&two)));
        assert_eq!(world.look(&mut first, 70), NEWLY_OURS);
    });
}

#[test]
fn who_lost_the_region_says_no_word_so_that_the_other_may_be_started_again() {
    World::each(|world| {
        let [one, two] = [own("1", None, "one"), own("2", None, "two")];
        let mut first = world.take("", one.clone()).unwrap();
        let mut second = world.succeed(&first, two.clone());
        // It is back, also in the store, before it has looked.
        world.say_again(&mut first);
        assert_eq!(world.look(&mut first, 10), kept(&two));
        assert_eq!(world.words(), 1, "its own is taken back");
        // The second is started again, and then killed and away for some seconds, and the store is away for a while.
        second.withdraw();
        assert_eq!(world.look(&mut first, 11), was_last(&two));
        let mut second = world.take("", two.clone()).expect("at once");
        assert_eq!(world.look(&mut first, 12), kept(&two));
        world.lapse(&second);
        assert!((13..22).all(|at| world.look(&mut first, at) == was_last(&two)));
        world.say_again(&mut second);
        assert_eq!(world.look(&mut first, 22), kept(&two));
        // It ends.
        world.lapse(&second);
        assert!((23..33).all(|at| world.look(&mut first, at) == was_last(&two)));
        assert_eq!(world.look(&mut first, 33), NEWLY_OURS);
    });
}

#[test]
fn whoever_came_and_went_while_a_word_had_lapsed_is_waited_for_as_well() {
    World::each(|world| {
        let [one, two] = [own("1", None, "one"), own("2", None, "two")];
        let mut first = world.take("", one.clone()).unwrap();
        let mut second = world.succeed(&first, two.clone());
        second.withdraw();
        world.say_again(&mut first);
        assert_eq!(world.look(&mut first, 11), was_last(&two));
        world.take("", two).expect("at once");
        assert!(!world.has(&mut first, 12));
    });
}

#[test]
fn who_stood_still_between_its_word_and_the_naming_names_nothing() {
    World::each(|world| {
        let [one, two] = [own("1", None, "one"), own("2", None, "two")];
        let mut late = world.claim(two);
        let key = world.runtime.block_on(late.speak()).unwrap();
        world.lapse(&late);
        let mut first = world.take("", one.clone()).unwrap();
        // Its word is away, or is there again, and came later.
        assert_eq!(late.name_ours(&key, 0).unwrap(), Some(OtherLedger::Kept(one.clone())));
        world.say_again(&mut late);
        assert_eq!(late.name_ours(&key, 0).unwrap(), Some(OtherLedger::Kept(one)));
        first.withdraw();
        assert!(late.name_ours(&key, 0).unwrap().is_some(), "the region was another's meanwhile");
        assert_eq!(world.last().as_deref(), Some("1"));
    });
}

#[test]
fn the_first_word_counts_whatever_its_key_and_what_a_later_version_says_is_passed_over() {
    World::each(|world| {
        let (mine, other) = (own("a", None, "one"), own("b", None, "two"));
        let put = |key: &str, value: Vec<u8>| {
            world.store.txn(&[], &[Write::Put { key: key.to_owned(), value }]).unwrap();
        };
        let mut claim = world.take("", mine.clone()).unwrap();
        for key in ["ledgers//0", "ledgers//z"] {
            put(key, serde_json::to_vec(&other).unwrap());
            assert_eq!(world.look(&mut claim, 0), OURS, "we were first");
            world.lapse(&claim);
            world.say_again(&mut claim);
            assert_eq!(world.look(&mut claim, 0), kept(&other), "now it was");
            world.store.txn(&[], &[Write::Delete { key: key.to_owned() }]).unwrap();
            assert_eq!(world.look(&mut claim, 0), NEWLY_OURS, "it never was the region's last");
        }
        put("ledgers//0", b"later".to_vec());
        world.lapse(&claim);
        world.say_again(&mut claim);
        assert_eq!(world.look(&mut claim, 0), OURS);
        // Where the store has lost whose was the last, it is told anew.
        world.store.txn(&[], &[Write::Delete { key: last_ledger("") }]).unwrap();
        assert_eq!(world.look(&mut claim, 1), OURS);
        assert_eq!(world.last().as_deref(), Some("a"));
    });
}

#[test]
fn one_ledger_at_two_servers_is_found_by_both() {
    World::each(|world| {
        let [one, two] = [own("a", Some("db-1"), "one"), own("a", Some("db-2"), "two")];
        let mut claims = [&one, &one, &two].map(|own| world.take("", own.clone()).unwrap());
        let twins = claims.each_mut().map(|claim| match world.look(claim, 0) {
            LedgerLook::Ours { twin, .. } => twin,
            LedgerLook::Other(_) => None,
        });
        assert_eq!(twins, [Some(two.clone()), Some(two), Some(one)]);
        claims[2].withdraw();
        assert!(claims[..2].iter_mut().all(|claim| world.look(claim, 1) == OURS));
    });
}

#[test]
fn a_move_says_so_by_itself_where_what_was_moved_is_the_regions() {
    World::each(|world| {
        let [two, three] = [2, 3].map(|id| format!("{id:032x}"));
        world.take("", own(&two, None, "one")).unwrap().withdraw();
        ledger_moved(world.store.as_ref(), "", [1, 3], "db").unwrap();
        assert_eq!(world.last(), Some(two.clone()));
        ledger_moved(world.store.as_ref(), "", [2, 3], "db").unwrap();
        let mut moved = world.claim(own(&three, Some("db"), "two"));
        assert_eq!(world.look(&mut moved, 0), NEWLY_OURS);
        assert!(world.refused(own(&two, None, "one")).contains("start this one with the same --ledger"));
    });
}
