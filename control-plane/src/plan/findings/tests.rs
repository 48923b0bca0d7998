//! What is found does not depend on the way to a state.

use postrail_schema::ids::{PoolId, RegionId, SourceId};
use postrail_schema::region::Region;
use postrail_schema::snapshot::{EgressPool, EgressSource, PoolMember};
use proptest::prelude::*;

use super::super::Record;
use super::*;

/// One edit of a record: of a kind, with a small id and name, so that edits meet.
#[derive(Clone, Debug)]
struct Edit {
    kind: u8,
    id: u32,
    name: u8,
    /// Whose it is, or which region or pool it names.
    refers: u32,
    flag: bool,
    removes: bool,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = (0..7_u8, 1..7_u32, 0..4_u8, 1..7_u32, any::<bool>(), prop::bool::weighted(0.25));
    let edit = edit.prop_map(|(kind, id, name, refers, flag, removes)| Edit { kind, id, name, refers, flag, removes });
    prop::collection::vec(edit, 1..6)
}

fn put<R: Record>(desired: &mut Desired, edit: &Edit, record: R) {
    match edit.removes {
        true => drop(R::map(desired).remove(&record.id())),
        false => R::map(desired).insert(record.id(), record),
    }
}

fn take(desired: &mut Desired, edit: &Edit) {
    let (id, name, tenant) = (edit.id, format!("n{}.example", edit.name), TenantId(edit.refers));
    match edit.kind {
        0 => {
            let region = edit.flag.then_some(RegionId(edit.refers));
            let weight = u32::from(edit.name) + 1;
            put(
                desired,
                edit,
                Tenant {
                    id: TenantId(id),
                    name,
                    quota_per_day: None,
                    weight,
                    message_bytes_max: 1,
                    region,
                    reserved_per_s: None,
                    quarantines: false,
                },
            );
        }
        1 => {
            let value = serde_json::json!({
                "id": id, "tenant": tenant, "username": name, "secret_hashes": [], "disabled": edit.flag,
            });
            put::<Credential>(desired, edit, serde_json::from_value(value).unwrap());
        }
        2 => {
            let standing =
                if edit.flag { Standing::Trusted } else { Standing::Unproved { missing: DomainRecord::Dkim } };
            let pool = (id % 2 == 0).then_some(PoolId(edit.refers));
            let domain = SendingDomain {
                id: SendingDomainId(id),
                tenant,
                name,
                keys: Vec::new(),
                pool,
                standing,
                is_platform: false,
                is_later: false,
            };
            put(desired, edit, domain);
        }
        3 => {
            let members = vec![PoolMember { source: SourceId(edit.refers), weight: 1 }];
            put(
                desired,
                edit,
                EgressPool {
                    id: PoolId(id),
                    name,
                    tenant: edit.flag.then_some(tenant),
                    members,
                    classes: Default::default(),
                },
            );
        }
        4 => desired.settings.platform_domain = edit.flag.then_some(name),
        5 => put(desired, edit, Region { id: RegionId(id), name, submission_host: "m.example".into() }),
        _ => {
            let (address, needs) = ([192, 0, 2, 1].into(), Default::default());
            let source = EgressSource { id: SourceId(id), name: name.clone(), address, ehlo_name: name, needs };
            put(desired, edit, source);
        }
    }
}

proptest! {
    #[test]
    fn what_is_found_step_by_step_is_what_is_found_at_once(steps in prop::collection::vec(edits(), 1..30)) {
        let (mut desired, mut findings) = (Desired::default(), Findings::default());
        for step in steps {
            let mut next = desired.clone();
            step.iter().for_each(|edit| take(&mut next, edit));
            findings = findings.after(&desired, &next);
            desired = next;
            let whole = Findings::of(&desired);
            prop_assert_eq!(findings.list(), whole.list());
            let errors = whole.list().into_iter().filter(|problem| problem.severity == Severity::Error);
            prop_assert_eq!(findings.errors(), errors.collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_change_that_concerns_nobody_else_finds_nothing_anew() {
    let mut desired = Desired::default();
    for id in 1..=100 {
        let edit = |kind| Edit { kind, id, name: 0, refers: id, flag: false, removes: false };
        [0, 1].iter().for_each(|kind| take(&mut desired, &edit(*kind)));
    }
    let findings = Findings::of(&desired);
    let mut next = desired.clone();
    next.tenants.get_mut(&TenantId(7)).unwrap().weight = 9;
    let due = Due::concerned(&desired, &next);
    assert!(due.tenants.is_empty() && due.credentials.is_empty() && due.domains.is_empty());
    next.tenants.remove(&TenantId(7));
    assert_eq!(Due::concerned(&desired, &next).credentials, [CredentialId(7)].into());
    let found = findings.after(&desired, &next).errors();
    let gone = |problem: &&Problem| problem.code == "dangling_tenant";
    assert_eq!(found.iter().filter(gone).count(), 1);
}
