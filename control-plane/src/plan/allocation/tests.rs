//! Fleets by hand, and fleets by chance.

use std::collections::BTreeSet;
use std::time::Duration;

use postrail_schema::allocation::{HostRecord, HostState, Order, Standing, Tenure};
use postrail_schema::problem::Problem;
use proptest::prelude::*;

use super::*;

fn name(number: usize) -> HostName {
    HostName::new(format!("h{number}")).unwrap()
}

fn address(number: usize) -> IpAddr {
    [192, 0, 2, number as u8].into()
}

fn host() -> Host {
    let nics = ["eth0".to_owned()].into();
    let announcement = Announcement { addresses_max: 1_000, share: 1, nics, ..Announcement::default() };
    Host { announcement, standing: HostStanding::Live, lapsed: false, released: BTreeSet::new() }
}

fn demand(weight: u32) -> Demand {
    Demand { pools: vec![(PoolId(1), weight)], ..Demand::default() }
}

/// Addresses of one pool and equal weight, and hosts of equal share.
fn fleet(addresses: usize, hosts: usize) -> Fleet {
    Fleet {
        addresses: (1..=addresses).map(|number| (address(number), demand(1))).collect(),
        hosts: (1..=hosts).map(|number| (name(number), host())).collect(),
        may_give: true,
    }
}

fn counts(assignment: &Assignment) -> Vec<usize> {
    let hosts: BTreeSet<_> = assignment.targets.values().collect();
    hosts.into_iter().map(|host| assignment.targets.values().filter(|other| *other == host).count()).collect()
}

fn moved(before: &BTreeMap<IpAddr, HostName>, after: &BTreeMap<IpAddr, HostName>) -> Vec<IpAddr> {
    before.iter().filter(|(address, host)| after.get(*address) != Some(*host)).map(|(address, _)| *address).collect()
}

/// Writes a step into the allocation.
fn apply(allocation: &mut Allocation, step: Step) {
    allocation.epoch = step.epoch;
    allocation.hosts.extend(step.changed);
}

/// Has every host give up what it is asked for.
fn obey(fleet: &mut Fleet, allocation: &Allocation) {
    for (name, grant) in allocation.grants() {
        let Some(host) = fleet.hosts.get_mut(name) else { continue };
        if grant.standing == Standing::Releasing && !host.lapsed {
            host.released.insert((grant.address, grant.epoch));
        }
    }
}

fn held(allocation: &Allocation) -> BTreeMap<IpAddr, HostName> {
    let held = allocation.grants().filter(|(_, grant)| grant.standing == Standing::Held);
    held.map(|(host, grant)| (grant.address, host.clone())).collect()
}

/// Steps until nothing changes, with hosts that obey.
fn settle(fleet: &mut Fleet, allocation: &mut Allocation) -> usize {
    for rounds in 0..1_000 {
        obey(fleet, allocation);
        let step = step(fleet, allocation);
        if step.changed.is_empty() {
            return rounds;
        }
        apply(allocation, step);
        assert_at_most_one_host(allocation);
    }
    panic!("the allocation does not settle");
}

/// The same, by what is written at once, which is looked at each time.
fn settle_by(most: Portion, fleet: &mut Fleet, allocation: &mut Allocation) -> usize {
    for rounds in 0..10_000 {
        obey(fleet, allocation);
        let part = step(fleet, allocation).portion(allocation, most);
        if part.changed.is_empty() {
            assert!(step(fleet, allocation).changed.is_empty(), "what is to be done is begun");
            return rounds;
        }
        assert!(part.changed.len() <= most.hosts && part.relied.iter().all(|host| part.changed.contains_key(host)));
        let grants = part.changed.values().map(Vec::len);
        assert!(part.changed.len() == 1 || grants.sum::<usize>() <= most.grants);
        apply(allocation, part);
        assert_at_most_one_host(allocation);
    }
    panic!("the allocation does not settle");
}

fn assert_at_most_one_host(allocation: &Allocation) {
    let mut seen = BTreeSet::new();
    for (_, grant) in allocation.grants() {
        assert!(seen.insert(grant.address), "{} is in two hosts' grants", grant.address);
    }
}

#[test]
fn addresses_are_dealt_evenly() {
    let assignment = assign(&fleet(10, 4), &BTreeMap::new(), 0);
    assert_eq!(assignment.problems, []);
    assert_eq!(counts(&assignment), [3, 3, 2, 2]);
}

#[test]
fn each_pool_is_spread_by_its_weights_and_hosts_by_their_share() {
    let mut fleet = fleet(8, 2);
    fleet.hosts.get_mut(&name(2)).unwrap().announcement.share = 3;
    assert_eq!(
        counts(&assign(&fleet, &BTreeMap::new(), 0)),
        [2, 6],
        "a host of three shares carries three times as much"
    );
    let mut fleet = self::fleet(4, 2);
    fleet.addresses.get_mut(&address(4)).unwrap().pools = vec![(PoolId(1), 3)];
    assert_eq!(
        counts(&assign(&fleet, &BTreeMap::new(), 0)),
        [1, 3],
        "three of weight one weigh as much as one of three"
    );
    let mut fleet = self::fleet(4, 2);
    for number in [1, 2] {
        fleet.addresses.get_mut(&address(number)).unwrap().pools = vec![(PoolId(2), 1)];
    }
    let targets = assign(&fleet, &BTreeMap::new(), 0).targets;
    assert_ne!(targets[&address(1)], targets[&address(2)], "a pool of two is on two hosts");
    assert_ne!(targets[&address(3)], targets[&address(4)]);
}

#[test]
fn pools_of_one_address_are_spread_by_number() {
    let mut fleet = fleet(6, 3);
    for (pool, demand) in (1..).zip(fleet.addresses.values_mut()) {
        demand.pools = vec![(PoolId(pool), 1)];
    }
    assert_eq!(counts(&assign(&fleet, &BTreeMap::new(), 0)), [2, 2, 2]);
    let crowded = fleet.addresses.keys().map(|address| (*address, name(1))).collect();
    assert_eq!(counts(&assign(&fleet, &crowded, 100)), [2, 2, 2]);
}

#[test]
fn each_constraint_is_kept_and_told() {
    type Ask = fn(&mut Demand);
    let table: [(Ask, &str); 5] = [
        (|d| d.region = Some("north".into()), "another region"),
        (|d| d.capabilities = ["ten-gigabit".to_owned()].into(), "lacks the capability ten-gigabit that"),
        (
            |d| d.capabilities = ["net-a", "ten-gigabit"].map(str::to_owned).into(),
            "capabilities net-a, ten-gigabit that",
        ),
        (|d| d.carrier = Carrier::Nic("eth7".into()), "lacks the interface eth7 that"),
        (|d| d.fixed = Some(name(3)), "is not the host that the address is fixed to"),
    ];
    for (ask, told) in table {
        let mut fleet = fleet(1, 2);
        ask(fleet.addresses.get_mut(&address(1)).unwrap());
        let assignment = assign(&fleet, &BTreeMap::new(), 0);
        assert_eq!(assignment.targets, BTreeMap::new());
        assert_eq!(assignment.problems[0].code, "address_without_host");
        assert!(assignment.problems[0].detail.contains(told), "{}", assignment.problems[0].detail);
        let announcement = Announcement {
            region: Some("north".into()),
            capabilities: ["net-a", "ten-gigabit"].map(str::to_owned).into(),
            nics: ["eth7".to_owned()].into(),
            routed: false,
            addresses_max: 1,
            share: 1,
            own: BTreeSet::new(),
        };
        fleet.hosts.insert(name(3), Host { announcement, ..host() });
        assert_eq!(assign(&fleet, &BTreeMap::new(), 0).targets, [(address(1), name(3))].into());
    }
}

/// The fleet with these addresses as those that a host has by its own configuration.
fn owning(fleet: &Fleet, own: &[(usize, usize)]) -> Fleet {
    let mut fleet = fleet.clone();
    for (host, number) in own {
        fleet.hosts.get_mut(&name(*host)).unwrap().announcement.own.insert(address(*number));
    }
    Fleet::new(fleet.addresses, fleet.hosts)
}

fn codes(problems: &[Problem]) -> Vec<&'static str> {
    problems.iter().map(|problem| problem.code).collect()
}

#[test]
fn an_address_that_a_host_has_already_is_given_to_no_other() {
    let mut allocation = Allocation::default();
    let mut plain = fleet(4, 2);
    settle(&mut plain, &mut allocation);
    let at = |allocation: &Allocation| held(allocation)[&address(1)].clone();
    let (before, owner) = if at(&allocation) == name(1) { (1, 2) } else { (2, 1) };
    let mut owned = owning(&plain, &[(owner, 1)]);
    let asked = step(&owned, &allocation);
    let releasing = asked.changed[&name(before)].iter().find(|grant| grant.standing == Standing::Releasing);
    assert_eq!(releasing.map(|grant| (grant.address, grant.next.clone())), Some((address(1), Some(name(owner)))));
    settle(&mut owned, &mut allocation);
    assert_eq!(at(&allocation), name(owner));
    assert!(allocation.grants().all(|(_, grant)| grant.tenure == Tenure::Leased), "it is not fixed");
    // It may come back with its address on, so nobody has it meanwhile.
    let host = owned.hosts.get_mut(&name(owner)).unwrap();
    (host.standing, host.lapsed) = (HostStanding::Gone, true);
    let lost = assign(&owned, &BTreeMap::new(), 0);
    assert_eq!((lost.targets.get(&address(1)), codes(&lost.problems)), (None, vec!["address_without_host"]));
    let detail = &lost.problems[0].detail;
    assert!(detail.contains("is gone") && detail.contains("not the host that has the address"), "{detail}");
    owned.hosts.get_mut(&name(owner)).unwrap().standing = HostStanding::Forgotten;
    owned.addresses = fleet(4, 2).addresses;
    let passed = assign(&Fleet::new(owned.addresses, owned.hosts), &BTreeMap::new(), 0);
    assert_eq!((passed.targets.get(&address(1)), passed.problems), (Some(&name(before)), vec![]));
}

#[test]
fn what_the_network_brings_may_be_on_every_host() {
    let mut fleet = fleet(1, 3);
    fleet.addresses.get_mut(&address(1)).unwrap().carrier = Carrier::Routed;
    let assignment = assign(&owning(&fleet, &[(2, 1), (3, 1)]), &BTreeMap::new(), 0);
    assert_eq!((assignment.targets, assignment.problems), ([(address(1), name(1))].into(), vec![]));
}

#[test]
fn hosts_and_sources_that_contradict_each_other_about_an_address_are_findings() {
    let both = owning(&fleet(1, 3), &[(2, 1), (3, 1)]);
    let assignment = assign(&both, &BTreeMap::new(), 0);
    assert_eq!(assignment.targets, [(address(1), name(2))].into(), "one of them");
    assert_eq!(codes(&assignment.problems), ["address_on_two_hosts"]);
    assert!(assignment.problems[0].detail.contains("interfaces of h2, h3"), "{:?}", assignment.problems);
    let mut other = fleet(1, 3);
    other.addresses.get_mut(&address(1)).unwrap().fixed = Some(name(1));
    let assignment = assign(&owning(&other, &[(2, 1)]), &BTreeMap::new(), 0);
    assert_eq!(assignment.targets, BTreeMap::new());
    assert_eq!(codes(&assignment.problems), ["address_is_another_hosts", "address_without_host"]);
    let detail = &assignment.problems[0].detail;
    assert!(detail.contains("names h1 as its host") && detail.contains("name h2 at the source"), "{detail}");
    let assignment = assign(&owning(&other, &[(1, 1)]), &BTreeMap::new(), 0);
    assert_eq!((assignment.targets.len(), assignment.problems), (1, vec![]), "the source says what is so");
}

#[test]
fn a_host_without_interfaces_gets_only_what_the_network_brings() {
    let mut fleet = fleet(2, 1);
    fleet.hosts.get_mut(&name(1)).unwrap().announcement.nics.clear();
    fleet.addresses.get_mut(&address(2)).unwrap().carrier = Carrier::Routed;
    let assignment = assign(&fleet, &BTreeMap::new(), 0);
    assert_eq!(assignment.targets, [(address(2), name(1))].into());
    assert!(assignment.problems[0].detail.contains("names no interface"), "{:?}", assignment.problems);
}

#[test]
fn a_full_host_passes_on_what_others_may_have_too() {
    let mut fleet = fleet(3, 3);
    for host in fleet.hosts.values_mut() {
        host.announcement.addresses_max = 1;
    }
    fleet.hosts.get_mut(&name(1)).unwrap().announcement.nics = ["eth1".to_owned()].into();
    fleet.hosts.get_mut(&name(2)).unwrap().announcement.nics = ["eth2".to_owned()].into();
    // Address 1 may be anywhere, and is where alone address 3 may be.
    fleet.addresses.get_mut(&address(3)).unwrap().carrier = Carrier::Nic("eth1".into());
    fleet.addresses.get_mut(&address(2)).unwrap().carrier = Carrier::Nic("eth2".into());
    let present = [(address(1), name(1)), (address(2), name(2))].into();
    let assignment = assign(&fleet, &present, 0);
    assert_eq!(assignment.problems, []);
    assert_eq!(assignment.targets, [(address(1), name(3)), (address(2), name(2)), (address(3), name(1))].into());
    fleet.addresses.insert(address(4), demand(1));
    let assignment = assign(&fleet, &assignment.targets, 0);
    assert!(assignment.problems[0].detail.contains("no room"), "{:?}", assignment.problems);
}

#[test]
fn a_drained_host_gives_up_what_others_may_have_and_keeps_the_rest() {
    let mut fleet = fleet(6, 3);
    fleet.addresses.get_mut(&address(1)).unwrap().fixed = Some(name(1));
    let mut allocation = Allocation::default();
    settle(&mut fleet, &mut allocation);
    fleet.hosts.get_mut(&name(1)).unwrap().standing = HostStanding::Draining;
    let first = step(&fleet, &allocation);
    let releasing = first.changed[&name(1)].iter().filter(|grant| grant.standing == Standing::Releasing).count();
    assert_eq!(releasing, 1, "asked back, and not given to another before it is back: {first:?}");
    assert_eq!(first.problems[0].code, "drain_blocked");
    assert_eq!(first.relied, BTreeSet::new());
    settle(&mut fleet, &mut allocation);
    let left: Vec<_> = held(&allocation).into_iter().filter(|(_, host)| *host == name(1)).collect();
    assert_eq!(left, [(address(1), name(1))]);
}

#[test]
fn a_dead_hosts_addresses_pass_on_only_when_it_has_lapsed_and_on_that_condition() {
    let mut fleet = fleet(6, 3);
    let mut allocation = Allocation::default();
    settle(&mut fleet, &mut allocation);
    let before = held(&allocation);
    fleet.hosts.get_mut(&name(2)).unwrap().standing = HostStanding::Gone;
    let early = step(&fleet, &allocation);
    assert!(early.changed.keys().eq([&name(2)]), "it is asked, nobody else is told: {early:?}");
    fleet.hosts.get_mut(&name(2)).unwrap().lapsed = true;
    let taken = step(&fleet, &allocation);
    assert_eq!(taken.relied, [name(2)].into());
    apply(&mut allocation, taken);
    assert_at_most_one_host(&allocation);
    let own: Vec<_> = before.iter().filter(|(_, host)| **host == name(2)).map(|(address, _)| *address).collect();
    assert_eq!(moved(&before, &held(&allocation)), own);
}

#[test]
fn what_is_fixed_passes_on_only_by_its_hosts_or_an_operators_word() {
    let mut fleet = fleet(1, 2);
    fleet.addresses.get_mut(&address(1)).unwrap().fixed = Some(name(1));
    let mut allocation = Allocation::default();
    settle(&mut fleet, &mut allocation);
    assert_eq!(allocation.hosts[&name(1)][0].tenure, Tenure::Fixed);
    let silent = fleet.hosts.get_mut(&name(1)).unwrap();
    (silent.standing, silent.lapsed) = (HostStanding::Gone, true);
    assert_eq!(step(&fleet, &allocation).changed, BTreeMap::new(), "its host keeps it");
    fleet.addresses.get_mut(&address(1)).unwrap().fixed = None;
    settle(&mut fleet, &mut allocation);
    assert_eq!(allocation.hosts[&name(1)][0].standing, Standing::Releasing, "asked back, and never answered");
    fleet.hosts.get_mut(&name(1)).unwrap().standing = HostStanding::Forgotten;
    settle(&mut fleet, &mut allocation);
    assert_eq!(held(&allocation), [(address(1), name(2))].into());
}

#[test]
fn a_move_that_is_under_way_keeps_its_end() {
    let mut fleet = fleet(100, 1);
    let mut allocation = Allocation::default();
    settle(&mut fleet, &mut allocation);
    fleet.hosts.insert(name(2), host());
    let first = step(&fleet, &allocation);
    apply(&mut allocation, first);
    let leaving = || allocation.grants().filter(|(_, grant)| grant.next.is_some()).count();
    assert_eq!(leaving(), postrail_schema::limits::ALLOCATION_MOVES_MAX);
    assert_eq!(step(&fleet, &allocation).changed, BTreeMap::new(), "no more at a time, and none of them turns back");
    settle(&mut fleet, &mut allocation);
    let taken = held(&allocation).values().filter(|host| **host == name(2)).count();
    assert!((49..=50).contains(&taken), "{taken}");
}

#[test]
fn an_address_that_comes_back_has_a_new_epoch() {
    let mut fleet = fleet(4, 1);
    let mut allocation = Allocation::default();
    settle(&mut fleet, &mut allocation);
    fleet.hosts.insert(name(2), host());
    let first = step(&fleet, &allocation);
    apply(&mut allocation, first);
    let (_, asked) = allocation.grants().find(|(_, grant)| grant.next.is_some()).unwrap();
    let asked = asked.clone();
    fleet.hosts.get_mut(&name(2)).unwrap().standing = HostStanding::Gone;
    let back = step(&fleet, &allocation);
    apply(&mut allocation, back);
    let (_, held) = allocation.grants().find(|(_, grant)| grant.address == asked.address).unwrap();
    assert!(held.standing == Standing::Held && held.epoch > asked.epoch, "{held:?} after {asked:?}");
    // So has one that its host gave up when a state asked for it that the store has lost.
    let (host, held) = allocation.grants().map(|(host, grant)| (host.clone(), grant.clone())).next().unwrap();
    fleet.hosts.get_mut(&host).unwrap().released.insert((held.address, held.epoch));
    let again = step(&fleet, &allocation);
    assert!(again.changed[&host].iter().any(|grant| grant.address == held.address && grant.epoch > held.epoch));
    apply(&mut allocation, again);
    assert!(step(&fleet, &allocation).changed.is_empty());
}

#[test]
fn a_host_that_begins_or_ends_keeps_what_it_has_and_gets_nothing_more() {
    let mut fleet = fleet(4, 2);
    let present = assign(&fleet, &BTreeMap::new(), 0).targets;
    fleet.hosts.get_mut(&name(2)).unwrap().standing = HostStanding::Quiet;
    for number in 5..9 {
        fleet.addresses.insert(address(number), demand(1));
    }
    let assignment = assign(&fleet, &present, 100);
    assert_eq!(moved(&present, &assignment.targets), [] as [IpAddr; 0]);
    assert_eq!(counts(&assignment), [6, 2]);
}

#[test]
fn a_host_whose_record_was_removed_keeps_what_it_has_until_it_could_have_lapsed() {
    let mut fleet = fleet(4, 2);
    fleet.addresses.get_mut(&address(1)).unwrap().carrier = Carrier::Nic("eth0".into());
    let mut known = Known { demands: fleet.addresses.clone(), ..Known::default() };
    let first = step(&fleet, &known.allocation);
    apply(&mut known.allocation, first);
    let record = HostRecord {
        incarnation: 1,
        sequence: 1,
        lease_ms: 10_000,
        state: HostState::Live,
        released: Vec::new(),
        announcement: host().announcement,
        held: None,
    };
    known.records.insert(name(2), (7, record));
    let mut observer = Observer::default();
    known.show(&mut observer, Duration::ZERO);
    let made = step(&known.fleet(&observer, Duration::ZERO), &known.allocation);
    assert!(made.changed.is_empty(), "{made:?}");
}

#[test]
fn nothing_is_given_by_who_does_not_know_what_the_store_has_lost() {
    let (mut fleet, mut allocation) = (fleet(3, 2), Allocation::default());
    fleet.may_give = false;
    assert!(step(&fleet, &allocation).changed.is_empty(), "what is free may be in use");
    fleet.may_give = true;
    settle(&mut fleet, &mut allocation);
    let from = allocation.places()[&address(1)].clone();
    // What is asked back, and what has lapsed, stays where it is.
    fleet.may_give = false;
    fleet.hosts.get_mut(&from).unwrap().standing = HostStanding::Draining;
    let places = held(&allocation);
    for change in [obey as fn(&mut Fleet, &Allocation), |fleet, _| {
        fleet.hosts.values_mut().for_each(|host| host.lapsed = true);
    }] {
        let asked = step(&fleet, &allocation);
        assert!(asked.relied.is_empty());
        apply(&mut allocation, asked);
        change(&mut fleet, &allocation);
    }
    let releasing: BTreeSet<_> =
        allocation.grants().filter(|(_, grant)| grant.standing == Standing::Releasing).map(|(host, _)| host).collect();
    assert_eq!(releasing, [&from].into(), "it is asked back");
    // Nor does it come back to who gave it up.
    fleet.hosts.get_mut(&from).unwrap().standing = HostStanding::Live;
    assert!(step(&fleet, &allocation).changed.is_empty());
    fleet.may_give = true;
    settle(&mut fleet, &mut allocation);
    assert_eq!(held(&allocation).len(), places.len());
}

#[test]
fn an_observer_of_a_store_that_went_back_gives_nothing_for_the_longest_lease() {
    let record = |lease_ms| HostRecord {
        incarnation: 1,
        sequence: 1,
        lease_ms,
        state: HostState::Live,
        released: Vec::new(),
        announcement: host().announcement,
        held: None,
    };
    let known = |revision, of_two| Known {
        records: [(name(1), (7, record(10_000))), (name(2), (of_two, record(30_000)))].into(),
        revision,
        ..Known::default()
    };
    let s = Duration::from_secs;
    // The store's revision tells it, or what a host had written.
    for (revision, of_two, is_other) in [(20, 9, false), (19, 9, true), (500, 8, true)] {
        let mut observer = Observer::at(s(60));
        assert!(!known(20, 9).show(&mut observer, s(60)));
        assert_eq!(known(revision, of_two).show(&mut observer, s(61)), is_other);
        assert_eq!(known(revision, of_two).fleet(&observer, s(61)).may_give, !is_other);
        for second in 62..=90 {
            known(revision, of_two).show(&mut observer, s(second));
        }
        assert_eq!(known(revision, of_two).fleet(&observer, s(90)).may_give, !is_other);
        known(revision, of_two).show(&mut observer, s(91));
        assert!(known(revision, of_two).fleet(&observer, s(91)).may_give);
    }
}

#[test]
fn what_is_known_of_a_host_decides_what_it_gets() {
    type Change = fn(&mut Known, &mut Observer);
    let late = Duration::from_secs(11);
    let table: [(&str, Duration, Change, HostStanding, bool); 7] = [
        ("alive", Duration::ZERO, |_, _| (), HostStanding::Live, false),
        ("silent", late, |_, _| (), HostStanding::Gone, true),
        ("begins", Duration::ZERO, |k, _| set(k, HostState::Joining), HostStanding::Quiet, false),
        ("has ended", Duration::ZERO, |k, _| set(k, HostState::Stopped), HostStanding::Quiet, false),
        ("drains", Duration::ZERO, |k, _| order(k, Order::Drain), HostStanding::Draining, false),
        (
            "drained and ended",
            Duration::ZERO,
            |k, _| {
                order(k, Order::Drain);
                set(k, HostState::Stopped);
            },
            HostStanding::Gone,
            true,
        ),
        ("forgotten", Duration::ZERO, |k, _| order(k, Order::Forget), HostStanding::Forgotten, false),
    ];
    for (what, now, change, standing, lapsed) in table {
        let record = HostRecord {
            incarnation: 1,
            sequence: 1,
            lease_ms: 10_000,
            state: HostState::Live,
            released: vec![(address(1), 3)],
            announcement: host().announcement,
            held: None,
        };
        let mut known = Known { records: [(name(1), (7, record))].into(), ..Known::default() };
        let mut observer = Observer::default();
        known.show(&mut observer, Duration::ZERO);
        change(&mut known, &mut observer);
        for second in 0..=now.as_secs() {
            observer.heard(Duration::from_secs(second), known.revision);
        }
        let fleet = known.fleet(&observer, now);
        let host = &fleet.hosts[&name(1)];
        assert_eq!((host.standing, host.lapsed), (standing, lapsed), "{what}");
        assert!(host.released.contains(&(address(1), 3)));
    }
}

fn set(known: &mut Known, state: HostState) {
    known.records.get_mut(&name(1)).unwrap().1.state = state;
}

fn order(known: &mut Known, order: Order) {
    known.orders.insert(name(1), order);
}

#[test]
fn what_is_too_much_for_one_write_is_written_in_portions() {
    let most = Portion { grants: 10, hosts: 3 };
    let (mut fleet, mut allocation) = (fleet(60, 6), Allocation::default());
    assert!(settle_by(most, &mut fleet, &mut allocation) > 1);
    assert_eq!(held(&allocation).len(), 60);
    // One dies: what it had passes on, on the condition that it is still silent, and is nobody's in between.
    let dead = fleet.hosts.get_mut(&name(1)).unwrap();
    (dead.standing, dead.lapsed) = (HostStanding::Gone, true);
    let first = step(&fleet, &allocation).portion(&allocation, most);
    assert_eq!((first.changed, first.relied), ([(name(1), Vec::new())].into(), [name(1)].into()));
    settle_by(most, &mut fleet, &mut allocation);
    assert!(held(&allocation).len() == 60 && !held(&allocation).values().any(|host| *host == name(1)));
    // What fits is written at once, as it is.
    let whole = step(&fleet, &Allocation::default());
    assert_eq!(whole.clone().portion(&Allocation::default(), Portion { grants: 60, hosts: 5 }), whole);
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let of_host = (0_u8..3, 0_u8..3, 0_u8..4, 1_u32..4, 0_u32..9, 0_usize..60);
    let any_host = of_host.prop_map(|(region, nic, standing, share, room, own)| {
        let announcement = Announcement {
            region: (region > 0).then(|| format!("r{region}")),
            capabilities: BTreeSet::new(),
            nics: [format!("eth{nic}")].into(),
            routed: false,
            addresses_max: room,
            share,
            own: [address(own)].into(),
        };
        let standing = if standing == 0 { HostStanding::Draining } else { HostStanding::Live };
        Host { announcement, standing, ..host() }
    });
    let any_demand = (0_u8..5, 0_u8..6, 1_u32..4, 1_u32..9).prop_map(|(region, nic, pool, weight)| Demand {
        pools: vec![(PoolId(pool), weight)],
        region: (region > 3).then(|| "r1".to_owned()),
        carrier: if nic > 4 { Carrier::Nic("eth1".to_owned()) } else { Carrier::HostChoice },
        ..Demand::default()
    });
    (prop::collection::vec(any_demand, 0..30), prop::collection::vec(any_host, 0..7)).prop_map(|(demands, hosts)| {
        Fleet::new(
            (1..).zip(demands).map(|(number, demand)| (address(number), demand)).collect(),
            (1..).zip(hosts).map(|(number, host)| (name(number), host)).collect(),
        )
    })
}

fn assert_constraints(fleet: &Fleet, assignment: &Assignment) {
    for (address, host) in &assignment.targets {
        let refused = board::refusal(&fleet.addresses[address], host, &fleet.hosts[host]);
        assert_eq!(refused, None, "{address} on {host}");
    }
    for (name, host) in &fleet.hosts {
        let count = assignment.targets.values().filter(|other| *other == name).count();
        assert!(count <= host.announcement.addresses_max as usize, "{name} has {count}");
    }
    let untold = assignment.problems.iter().filter(|problem| problem.code != "address_on_two_hosts").count();
    assert_eq!(assignment.targets.len() + untold, fleet.addresses.len(), "placed, or told why not");
}

proptest! {
    #[test]
    fn constraints_hold_and_each_address_without_a_host_is_told(fleet in any_fleet()) {
        let first = assign(&fleet, &BTreeMap::new(), 100);
        assert_constraints(&fleet, &first);
        prop_assert_eq!(&assign(&fleet, &BTreeMap::new(), 100), &first, "equal input gives equal output");
        let count = |name: &HostName| first.targets.values().filter(|other| *other == name).count();
        for (_, demand) in fleet.addresses.iter().filter(|(address, _)| !first.targets.contains_key(*address)) {
            for (name, host) in &fleet.hosts {
                let has_room = count(name) < host.announcement.addresses_max as usize;
                prop_assert!(!has_room || board::refusal(demand, name, host).is_some(), "{} has room", name);
            }
        }
    }

    #[test]
    fn levelling_ends_and_then_moves_nothing(fleet in any_fleet()) {
        let mut present = BTreeMap::new();
        for _ in 0..3 {
            present = assign(&fleet, &present, 10_000).targets;
        }
        let again = assign(&fleet, &present, 10_000);
        assert_constraints(&fleet, &again);
        if again.problems.is_empty() {
            prop_assert!(moved(&present, &again.targets).is_empty());
        }
    }

    #[test]
    fn a_lost_host_moves_only_its_addresses(addresses in 1..60_usize, hosts in 2..8_usize, lost in 0..8_usize) {
        let mut fleet = fleet(addresses, hosts);
        let before = assign(&fleet, &BTreeMap::new(), 0).targets;
        let lost = name(lost % hosts + 1);
        fleet.hosts.get_mut(&lost).unwrap().standing = HostStanding::Gone;
        let after = assign(&fleet, &before, 10_000).targets;
        let own: Vec<_> = before.iter().filter(|(_, host)| **host == lost).map(|(address, _)| *address).collect();
        prop_assert_eq!(moved(&before, &after), own);
        let later = assign(&fleet, &after, 10_000).targets;
        prop_assert!(moved(&after, &later).is_empty(), "and the spread is even at once");
    }

    #[test]
    fn a_new_host_takes_only_what_levels_the_spread(addresses in 1..60_usize, hosts in 1..8_usize) {
        let mut fleet = fleet(addresses, hosts);
        let before = assign(&fleet, &BTreeMap::new(), 0).targets;
        fleet.hosts.insert(name(9), host());
        let after = assign(&fleet, &before, 10_000).targets;
        let moved = moved(&before, &after);
        prop_assert!(moved.iter().all(|address| after[address] == name(9)), "nothing moves between the others");
        prop_assert_eq!(moved.len(), addresses / (hosts + 1));
    }

    #[test]
    fn no_history_puts_an_address_on_two_hosts_and_all_settle(
        mut fleet in any_fleet(),
        changes in prop::collection::vec((1..8_usize, 0..5_u8), 0..20),
        portion in prop::option::of((1..20_usize, 1..4_usize)),
    ) {
        let mut allocation = Allocation::default();
        let most = portion.map_or(Portion { grants: 1_000, hosts: 100 }, |(grants, hosts)| Portion { grants, hosts });
        for (number, change) in changes {
            if let Some(host) = fleet.hosts.get_mut(&name(number)) {
                match change {
                    0 => host.standing = HostStanding::Draining,
                    1 => (host.standing, host.lapsed) = (HostStanding::Gone, false),
                    2 => (host.standing, host.lapsed) = (HostStanding::Gone, true),
                    3 => (host.standing, host.lapsed) = (HostStanding::Live, false),
                    _ => obey(&mut fleet, &allocation),
                }
            }
            let part = step(&fleet, &allocation).portion(&allocation, most);
            apply(&mut allocation, part);
            assert_at_most_one_host(&allocation);
        }
        for host in fleet.hosts.values_mut().filter(|host| host.standing == HostStanding::Gone) {
            host.lapsed = true;
        }
        settle_by(most, &mut fleet, &mut allocation);
        for (host, grant) in allocation.grants() {
            let standing = fleet.hosts[host].standing;
            prop_assert!(grant.standing == Standing::Held, "{grant:?} on {standing:?} {host}");
        }
    }
}
