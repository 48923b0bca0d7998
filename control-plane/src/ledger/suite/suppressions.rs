//! Suppressions: how many there are, and what has changed.

use std::collections::BTreeSet;

use postrail_schema::limits::{SUPPRESSION_CHANGES_MAX, SUPPRESSIONS_MAX, SUPPRESSIONS_PER_TENANT_MAX};
use postrail_schema::suppressions::{SuppressionDelta, Suppressions};
use proptest::collection;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

fn one(tenant: u32, address: &str) -> Suppression {
    Suppression { tenant: TenantId(tenant), address: address.to_owned() }
}

fn record(suppression: Suppression) -> SuppressionRecord {
    SuppressionRecord { suppression, reason: "asked to".to_owned(), created_ms: 5 }
}

impl World {
    pub(super) fn suppressions(&self) -> (SuppressionHead, Vec<Suppression>) {
        let mut all = Vec::new();
        let head = self.ledger.each_suppression(&mut |suppression| all.push(suppression)).unwrap();
        assert_eq!(head.count, all.len() as u64);
        (head, all)
    }

    fn add(&self, tenant: u32, address: &str) -> bool {
        self.ledger.suppress(&record(one(tenant, address)), None).unwrap()
    }

    fn count(&self, tenant: Option<u32>) -> u64 {
        self.ledger.suppressions_count(tenant.map(TenantId)).unwrap()
    }

    /// As an earlier version writes, which knows no numbers, or somebody by hand.
    fn by_hand(&self, statement: &str) {
        self.backend.change(statement);
    }
}

const BY_HAND: [&str; 2] = [
    "INSERT INTO suppressions (tenant, address, reason, created_ms) VALUES (2, 'hand@x.example', '', 5)",
    "DELETE FROM suppressions WHERE tenant = 1 AND address = 'b@x.example'",
];

pub(super) fn suppressions_are_counted_whoever_writes_them(mut world: World) {
    assert_eq!((world.count(None), world.count(Some(1))), (0, 0));
    for (tenant, address) in [(1, "a@x.example"), (1, "b@x.example"), (2, "a@x.example")] {
        assert!(world.add(tenant, address));
        assert!(!world.add(tenant, address), "it is counted once");
    }
    BY_HAND.iter().for_each(|statement| world.by_hand(statement));
    world.reopen();
    assert_eq!([None, Some(1), Some(2), Some(3)].map(|tenant| world.count(tenant)), [3, 1, 2, 0]);
    assert!(world.ledger.unsuppress(&one(1, "a@x.example"), None).unwrap());
    assert_eq!((world.count(None), world.count(Some(1))), (2, 0));
    assert_eq!(world.number("SELECT count(*) FROM suppression_counts"), 1);
    assert!(world.add(2, "b@x.example") && world.add(3, "b@x.example"));
    let some = |limit| world.ledger.unsuppress_some(TenantId(2), limit).unwrap();
    assert_eq!([some(2), some(2), some(2)], [2, 1, 0]);
    assert_eq!((world.count(None), world.count(Some(3))), (1, 1), "others keep theirs");
}

pub(super) fn a_tenant_has_a_limit_of_its_own_and_is_told_of_no_other(world: World) {
    assert!(world.add(1, "a@x.example") && world.add(2, "a@x.example"));
    world.by_hand(&format!(
        "UPDATE suppression_counts SET suppressions = {SUPPRESSIONS_PER_TENANT_MAX} WHERE tenant = 1"
    ));
    let full = |tenant| world.ledger.suppress(&record(one(tenant, "b@x.example")), None).unwrap_err();
    let said = full(1);
    assert!(matches!(said, LedgerError::TenantSuppressionsFull) && said.to_string().contains("500000"), "{said}");
    assert!(!world.add(1, "a@x.example"), "what is there is renewed");
    assert!(world.add(2, "b@x.example"), "others are not concerned");
    assert_eq!((world.count(Some(2)), world.count(None)), (2, 3), "what was refused is not counted");

    world.by_hand(&format!("UPDATE suppression_head SET suppressions = {SUPPRESSIONS_MAX}"));
    let said = world.ledger.suppress(&record(one(3, "b@x.example")), None).unwrap_err();
    assert!(matches!(said, LedgerError::SuppressionsFull), "{said}");
    assert!(!said.to_string().contains(|letter: char| letter.is_ascii_digit()), "{said}");
    assert!(world.ledger.suppression(&one(3, "b@x.example")).unwrap().is_none());
}

pub(super) fn changes_of_suppressions_are_numbered_whoever_makes_them(mut world: World) {
    let (first, _) = world.suppressions();
    assert_eq!(world.ledger.suppression_changes(first.last, first.last).unwrap(), Some(Vec::new()));
    assert!(world.add(1, "a@x.example") && world.add(1, "b@x.example"));
    assert!(!world.add(1, "a@x.example"), "a new reason is no change");
    BY_HAND.iter().for_each(|statement| world.by_hand(statement));
    assert!(world.ledger.unsuppress(&one(1, "a@x.example"), None).unwrap());
    assert!(!world.ledger.unsuppress(&one(1, "a@x.example"), None).unwrap(), "nor is what makes no difference");
    world.reopen();
    let head = world.ledger.suppression_head().unwrap();
    assert_eq!((head.last - first.last, head.count), (5, 1));
    let changes = world.ledger.suppression_changes(first.last, head.last).unwrap().unwrap();
    let changes: Vec<_> =
        changes.iter().map(|it| (it.suppression.tenant.0, &*it.suppression.address, it.is_added)).collect();
    let wanted = [
        (1, "a@x.example", true),
        (1, "b@x.example", true),
        (2, "hand@x.example", true),
        (1, "b@x.example", false),
        (1, "a@x.example", false),
    ];
    assert_eq!(changes, wanted);
    assert_eq!(world.ledger.suppression_changes(head.last - 1, head.last).unwrap().unwrap().len(), 1);
    for (after, to) in [(head.last, head.last + 1), (0, head.last), (u64::MAX - 1, u64::MAX)] {
        assert_eq!(world.ledger.suppression_changes(after, to).unwrap(), None, "{after} to {to}");
    }
    // Only the last ones are remembered.
    world.by_hand(&format!("UPDATE suppression_head SET last = {}", head.last + SUPPRESSION_CHANGES_MAX - 2));
    assert!(world.add(1, "c@x.example"));
    assert_eq!(world.number("SELECT min(sequence) FROM suppression_changes"), head.last);

    world.ledger.renumber_suppressions().unwrap();
    let (renumbered, all) = world.suppressions();
    assert_eq!((renumbered.last, all.len(), world.count(Some(1))), (head.last + SUPPRESSION_CHANGES_MAX, 2, 1));
    assert_eq!(world.ledger.suppression_changes(renumbered.last - 1, renumbered.last).unwrap(), None);
}

/// What a host does that asks now and then: random adds, removals and prunings.
pub(super) fn what_has_changed_leads_from_any_list_to_the_present_one_or_is_not_told(world: World) {
    let act = (0..12_u8, 1..3_u32, 0..12_u8);
    let acts = collection::vec(act, 1..60);
    let mut runner = TestRunner::new_with_rng(
        Config { failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let (mut told, mut pruned) = (0, 0);
    for _ in 0..12 {
        let acts = acts.new_tree(&mut runner).unwrap().current();
        let (head, all) = world.suppressions();
        let (mut at, mut list): (u64, Suppressions) = (head.last, all.into_iter().collect());
        for (kind, tenant, address) in acts {
            let suppression = one(tenant, &format!("{address}@x.example"));
            match kind {
                0..5 => drop(world.ledger.suppress(&record(suppression), None).unwrap()),
                5..8 => drop(world.ledger.unsuppress(&suppression, None).unwrap()),
                8 => world.ledger.renumber_suppressions().unwrap(),
                _ => {
                    let head = world.ledger.suppression_head().unwrap();
                    match world.ledger.suppression_changes(at, head.last).unwrap() {
                        Some(changes) => {
                            told += 1;
                            let mut total = list.total();
                            changes.iter().for_each(|change| total.take(change));
                            list = list.with(&SuppressionDelta::of(changes));
                            assert_eq!(list.total(), total);
                        }
                        None => {
                            pruned += 1;
                            list = world.suppressions().1.into_iter().collect();
                        }
                    }
                    at = head.last;
                    assert!(list.iter().eq(world.suppressions().1), "at {at}");
                    assert_eq!(list.total().count, head.count);
                }
            }
        }
    }
    assert!(told > 10 && pruned > 5, "{told} {pruned}");
}

pub(super) fn those_who_change_suppressions_at_once_leave_one_order_without_gaps(world: World) {
    let first = world.suppressions().0.last;
    let ledgers: Vec<_> = (0..4).map(|_| world.backend.open()).collect();
    std::thread::scope(|scope| {
        for ledger in &ledgers {
            scope.spawn(move || {
                for n in 0..25 {
                    let [this, other] = [n, n + 1].map(|n| one(1, &format!("{}@x.example", n % 5)));
                    ledger.suppress(&record(this.clone()), None).unwrap();
                    ledger.mirror(&[record(other)], std::slice::from_ref(&this)).unwrap();
                    ledger.unsuppress(&this, None).unwrap();
                }
            });
        }
        // Who reads meanwhile never sees a number before those below it.
        let mut at = first;
        while at < first + 20 {
            let head = world.ledger.suppression_head().unwrap();
            let changes = world.ledger.suppression_changes(at, head.last).unwrap();
            assert!(changes.is_some(), "{at} to {}", head.last);
            at = head.last;
        }
    });
    let (head, all) = world.suppressions();
    let changes = world.ledger.suppression_changes(first, head.last).unwrap().unwrap();
    let mut there = BTreeSet::new();
    for change in changes {
        let suppression = change.suppression;
        let differs = if change.is_added { there.insert(suppression.clone()) } else { there.remove(&suppression) };
        assert!(differs, "{suppression:?} as it was");
    }
    assert!(there.into_iter().eq(all));
}

pub(super) fn a_ledger_of_before_changes_had_numbers_begins_to_number_them(mut world: World) {
    assert!(world.add(1, "a@x.example") && world.add(2, "a@x.example"));
    world.backend.forget_numbers();
    BY_HAND.iter().take(1).for_each(|statement| world.by_hand(statement));
    world.reopen();
    let (head, all) = world.suppressions();
    assert_eq!((all.len(), world.count(Some(2))), (3, 2));
    assert!(world.add(1, "b@x.example"));
    assert_eq!(world.ledger.suppression_changes(head.last, head.last + 1).unwrap().unwrap().len(), 1);
}
