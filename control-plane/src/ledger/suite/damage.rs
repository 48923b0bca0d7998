//! Rows whose octets or numbers somebody changed: what is damaged is an error that names it, and all else is read.

use super::*;

pub(super) fn a_damaged_chunk_is_an_error_with_its_sequence(mut world: World) {
    world.record(&[event(EventKind::Accepted, 1, 0, 10)], 1);
    world.record(&[event(EventKind::Accepted, 2, 0, 10), event(EventKind::Delivered, 2, 0, 20)], 2);
    let check = |damage: &str| {
        let id = MessageId::from_bits(2);
        let corrupt = |error: LedgerError| matches!(error, LedgerError::Corrupt { sequence: 2 | 3 });
        assert!(world.ledger.events(None, 0, 10).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.recipients(id, RecipientIndex(0), 10).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.message(id).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.trace(id, None, 10).is_err_and(corrupt), "{damage}");
        assert_eq!(world.kinds(1, None).len(), 1, "{damage}: what lies elsewhere is read");
    };
    let damages: [(&str, Edit<'_>); 14] = [
        ("links", &Vec::clear),
        ("links", &|octets| *octets = vec![0xff]),
        ("links", &|octets| *octets = [&[0xff; 9][..], &[1]].concat()),
        ("links", &|octets| *octets = vec![2, 1]),
        ("links", &|octets| octets.extend([1, 0])),
        ("body", &Vec::clear),
        ("body", &|octets| *octets = b"text".to_vec()),
        ("body", &|octets| octets.truncate(octets.len() - 1)),
        ("body", &|octets| octets.push(0)),
        ("body", &|octets| octets.fill(0)),
        ("body", &|octets| octets[4..].fill(0)),
        ("body", &|octets| octets[..4].fill(0xff)),
        ("body", &|octets| octets[0] ^= 1),
        ("links", &|octets| octets[0] = 1),
    ];
    for (place, (column, damage)) in damages.into_iter().enumerate() {
        let mut former = Vec::new();
        let kept = std::cell::RefCell::new(&mut former);
        world.backend.edit("events", column, "first = 2", &|octets| {
            kept.borrow_mut().clone_from(octets);
            damage(octets);
        });
        check(&format!("damage {place} of {column}"));
        world.backend.edit("events", column, "first = 2", &|octets| octets.clone_from(&former));
    }
    for count in [0, 1, 3, 2_000_000_000] {
        world.backend.change(&format!("UPDATE events SET count = {count} WHERE first = 2"));
        check(&format!("a count of {count}"));
    }
}

pub(super) fn damaged_recipients_are_an_error_with_their_message(mut world: World) {
    world.record(&[event(EventKind::Accepted, 2, 0, 10)], 1);
    let check = |damage: &str| {
        let id = MessageId::from_bits(2);
        let corrupt = |error: LedgerError| matches!(error, LedgerError::CorruptRecipients { message } if message == id);
        assert!(world.ledger.recipients(id, RecipientIndex(0), 10).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.message(id).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.trace(id, None, 10).is_err_and(corrupt), "{damage}");
        assert_eq!(world.all(None, 10).len(), 1, "{damage}: its events are read");
    };
    let damages: [Edit<'_>; 4] =
        [&|octets| *octets = vec![0], &|octets| octets[0] = 0x20, &|octets| octets.extend(octets.clone()), &|octets| {
            *octets = vec![0; 9]
        }];
    for (place, damage) in damages.into_iter().enumerate() {
        let mut former = Vec::new();
        let kept = std::cell::RefCell::new(&mut former);
        world.backend.edit("recipients", "events", "part = 0", &|octets| {
            kept.borrow_mut().clone_from(octets);
            damage(octets);
        });
        check(&format!("damage {place}"));
        world.backend.edit("recipients", "events", "part = 0", &|octets| octets.clone_from(&former));
    }
    world.backend.change("UPDATE recipients SET part = 2048");
    check("a part that there cannot be");
    world.backend.change("UPDATE recipients SET part = 0");
    // What is kept in memory was written over by somebody else; the batch that meets it is not stored.
    world.backend.edit("recipients", "events", "part = 0", &|octets| octets.clear());
    world.backend.edit("recipients", "events", "part = 0", &|octets| octets.push(9));
    world.reopen();
    let refused = world.try_record(&[event(EventKind::Delivered, 2, 0, 20)], 1);
    assert!(matches!(refused, Err(LedgerError::CorruptRecipients { .. })), "{refused:?}");
    assert_eq!(world.ledger.cursor(JOURNAL).unwrap(), at(1));
}
