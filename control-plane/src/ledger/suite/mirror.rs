//! Suppressions that another ledger keeps, and this one has copies of.

use super::*;

fn record(tenant: u32, address: &str, reason: &str) -> SuppressionRecord {
    let suppression = Suppression { tenant: TenantId(tenant), address: format!("{address}@receiver.example") };
    SuppressionRecord { suppression, reason: reason.to_owned(), created_ms: 7 }
}

/// Tenant, address, reason, and whether it is a copy.
fn kept(world: &World) -> Vec<(u32, String, String, bool)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = world.ledger.kept(after.as_ref(), 2).unwrap();
        assert!(page.len() <= 2 && page.iter().all(|one| after.as_ref() < Some(&one.record.suppression)));
        let Some(last) = page.last() else { return all };
        after = Some(last.record.suppression.clone());
        all.extend(page.into_iter().map(|Kept { record, is_mirrored }| {
            let address = record.suppression.address.split('@').next().unwrap_or_default().to_owned();
            (record.suppression.tenant.0, address, record.reason, is_mirrored)
        }));
    }
}

fn told(all: &[(u32, &str, &str, bool)]) -> Vec<(u32, String, String, bool)> {
    all.iter().map(|(tenant, address, reason, copy)| (*tenant, (*address).into(), (*reason).into(), *copy)).collect()
}

pub(super) fn copies_are_told_from_what_is_the_ledgers_own_and_only_they_are_removed(mut world: World) {
    world.ledger.suppress(&record(1, "own", "mine"), None).unwrap();
    world.ledger.suppress(&record(2, "both", "mine"), None).unwrap();
    let theirs = [record(1, "a", "theirs"), record(2, "both", "theirs"), record(3, "ä", "theirs")];
    assert!(world.ledger.mirror(&theirs, &[]).unwrap());
    assert!(!world.ledger.mirror(&theirs, &[]).unwrap(), "no address is new");
    assert!(!world.ledger.mirror(&[], &[]).unwrap());
    let all = [(1, "a", "theirs", true), (1, "own", "mine", false), (2, "both", "theirs", true)];
    let all = told(&[&all[..], &[(3, "ä", "theirs", true)]].concat());
    assert_eq!(kept(&world), all);
    world.reopen();
    assert_eq!(kept(&world), all);
    let gone = ["own", "a", "nowhere"].map(|address| record(1, address, "").suppression);
    assert!(world.ledger.mirror(&[record(4, "b", "")], &gone).unwrap());
    let rest = [(1, "own", "mine", false), (2, "both", "theirs", true), (3, "ä", "theirs", true), (4, "b", "", true)];
    assert_eq!(kept(&world), told(&rest));
    assert!(world.ledger.mirror(&[], &[record(4, "b", "").suppression]).unwrap());
    // One that was removed and made again is the ledger's own.
    assert!(world.ledger.unsuppress(&record(2, "both", "").suppression, None).unwrap());
    world.ledger.suppress(&record(2, "both", "mine"), None).unwrap();
    assert!(!world.ledger.mirror(&[], &[record(2, "both", "").suppression]).unwrap());
    assert_eq!(kept(&world), told(&[rest[0], (2, "both", "mine", false), rest[2]]));
    assert_eq!(world.suppressions().1.len(), 3);
}

pub(super) fn that_everything_was_taken_over_is_known_for_good(mut world: World) {
    assert!(!world.ledger.is_mirror_whole().unwrap());
    for at_ms in [5, 6] {
        world.ledger.set_mirror_whole(at_ms).unwrap();
        world.reopen();
        assert!(world.ledger.is_mirror_whole().unwrap());
    }
}
