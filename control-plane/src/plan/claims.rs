//! Names that several tenants have: whether the data planes read a publication with them.
//!
//! A data plane of a version before that refuses two domains of one name, and would stay with the configuration that it has;
//! so they are published once every host that is known reads them, and from then on. Absent here: who is known (`reconcile`).

use std::collections::BTreeMap;

use postrail_schema::ids::SendingDomainId;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::SendingDomain;
use postrail_schema::wire::SNAPSHOT_FORMAT_SHARED;

use super::Desired;

/// Whether all hosts read domains of one name. `formats`: what each reads, by its name; there has to be one.
pub(crate) fn reads_shared(formats: &BTreeMap<String, u16>) -> bool {
    !formats.is_empty() && formats.values().all(|format| *format >= SNAPSHOT_FORMAT_SHARED)
}

/// The names by which one of `wanted` begins to send beside another that does, though hosts have one domain of a name.
pub(crate) fn begun_beside<'a>(desired: &Desired, wanted: impl Iterator<Item = &'a SendingDomain>) -> Vec<String> {
    let mut senders: BTreeMap<&str, Vec<&SendingDomain>> = BTreeMap::new();
    for domain in wanted.filter(|domain| !desired.head.publishes_shared && domain.standing.may_send()) {
        senders.entry(&domain.name).or_default().push(domain);
    }
    let sent = |id: &SendingDomainId| desired.domains.get(id).is_some_and(|former| former.standing.may_send());
    senders.retain(|_, domains| domains.len() > 1 && domains.iter().any(|domain| !sent(&domain.id)));
    senders.into_keys().map(str::to_owned).collect()
}

/// Why a domain may not begin to send beside another of its name, for operators.
pub(crate) const NOT_READ_YET: &str = "not all hosts read a second domain of a name: upgrade them";

/// That domains are not published yet, because of which hosts.
pub(crate) fn shared_problem(desired: &Desired, formats: &BTreeMap<String, u16>) -> Option<Problem> {
    if desired.head.publishes_shared {
        return None;
    }
    let domain = desired.later_domains().next()?;
    let old = formats.iter().filter(|(_, format)| **format < SNAPSHOT_FORMAT_SHARED).map(|(name, _)| name.as_str());
    let mut old: Vec<_> = old.collect();
    let more = old.len().saturating_sub(NAMED_MAX);
    old.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let hosts = if old.is_empty() {
        "none is known yet".to_owned()
    } else {
        format!("{}{more} would refuse it, or does not run to say", old.join(", "))
    };
    Some(Problem {
        severity: Severity::Warning,
        code: "domain_not_published",
        subject: format!("domain/{}", domain.name),
        detail: format!(
            "several tenants have it, and hosts have the first one only until all are of a version that reads it ({hosts}): \
             upgrade them, or remove who is gone"
        ),
    })
}

/// The hosts that run and refuse what is published, since they do not read domains of one name. `running`: what each reads.
pub(crate) fn refusing_problems(desired: &Desired, running: &BTreeMap<String, u16>) -> Vec<Problem> {
    let shared = desired.head.publishes_shared.then(|| desired.later_domains().next()).flatten();
    let Some(domain) = shared else { return Vec::new() };
    let old = running.iter().filter(|(_, format)| **format < SNAPSHOT_FORMAT_SHARED);
    let problem = |(name, _): (&String, _)| Problem {
        severity: Severity::Error,
        code: "configuration_not_read",
        subject: format!("host/{name}"),
        detail: format!(
            "it is of a version that refuses the configuration that is published, in which several tenants have a domain ({}), and \
             goes on with the last that it read: upgrade it",
            domain.name
        ),
    };
    old.map(problem).collect()
}

/// Hosts that a finding names one by one.
const NAMED_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use postrail_schema::ids::TenantId;
    use postrail_schema::standing::{DomainRecord, Standing};

    use super::*;
    use crate::plan::Findings;

    fn claimed_twice() -> Desired {
        let mut desired = Desired::default();
        for id in [1, 2] {
            let domain = SendingDomain {
                id: SendingDomainId(id),
                tenant: TenantId(id),
                name: "a.example".to_owned(),
                keys: Vec::new(),
                pool: None,
                standing: Default::default(),
                is_platform: false,
                is_later: false,
            };
            desired.domains.insert(domain.id, domain);
        }
        desired
    }

    fn formats(formats: &[u16]) -> BTreeMap<String, u16> {
        formats.iter().enumerate().map(|(at, format)| (format!("mx{at}"), *format)).collect()
    }

    #[test]
    fn names_of_several_are_published_when_every_host_reads_them() {
        assert!(!reads_shared(&formats(&[])));
        assert!(!reads_shared(&formats(&[SNAPSHOT_FORMAT_SHARED, 0])));
        assert!(reads_shared(&formats(&[SNAPSHOT_FORMAT_SHARED, SNAPSHOT_FORMAT_SHARED + 1])));
        let mut desired = claimed_twice();
        let published = |desired: &Desired| desired.published_domains().iter().map(|it| it.id.0).collect::<Vec<_>>();
        assert_eq!(published(&desired), [1]);
        let problem = shared_problem(&desired, &formats(&[SNAPSHOT_FORMAT_SHARED, 0])).unwrap();
        assert_eq!(problem.subject, "domain/a.example");
        assert!(problem.detail.contains("(mx1 would refuse it, or"), "{}", problem.detail);
        desired.head.publishes_shared = true;
        assert_eq!(published(&desired), [1, 2]);
        assert_eq!(desired.published_domains().iter().map(|domain| domain.is_later).collect::<Vec<_>>(), [false, true]);
        assert_eq!(shared_problem(&desired, &formats(&[0])), None);
        // One that was put back to an earlier version since.
        let refusing = |desired: &Desired, of: &[u16]| {
            refusing_problems(desired, &formats(of)).into_iter().map(|problem| problem.subject).collect::<Vec<_>>()
        };
        assert_eq!(
            refusing(&desired, &[SNAPSHOT_FORMAT_SHARED, 0, SNAPSHOT_FORMAT_SHARED - 1]),
            ["host/mx1", "host/mx2"]
        );
        desired.domains.remove(&SendingDomainId(2));
        assert_eq!(refusing(&desired, &[0]), [""; 0], "it reads that");
    }

    #[test]
    fn the_first_domain_of_a_name_signs_for_the_platform_and_what_nobody_proved_comes_before_nothing() {
        let mut desired = claimed_twice();
        desired.head.publishes_shared = true;
        desired.settings.platform_domain = Some("a.example".to_owned());
        let missing = DomainRecord::Spf;
        let lapsed = Standing::Lapsed { missing };
        let unproved = Standing::Unproved { missing };
        for (standings, first) in [
            ([unproved, unproved], 0),
            ([unproved, lapsed], 1),
            ([lapsed, Standing::Failing], 1),
            ([Standing::Verified, Standing::Failing], 0),
            ([Standing::Verified, Standing::Trusted], 1),
        ] {
            for (id, standing) in [1, 2].into_iter().zip(standings) {
                let domain = SendingDomain { standing, ..desired.domains[&SendingDomainId(id)].clone() };
                desired.domains.insert(domain.id, domain);
            }
            let signs: Vec<_> = desired.published_domains().iter().map(|domain| domain.is_platform).collect();
            assert_eq!(signs, [first == 0, first == 1], "{standings:?}");
            let warned = Findings::of(&desired).list().iter().any(|problem| problem.code == "platform_shared");
            assert_eq!(warned, standings[first] != Standing::Trusted, "{standings:?}");
        }
    }

    #[test]
    fn a_domain_is_held_back_by_one_that_sends_and_only_while_hosts_have_one_of_a_name() {
        let mut desired = claimed_twice();
        let held_by = |desired: &Desired, id: u32| {
            desired.holder_beside(&desired.domains[&SendingDomainId(id)]).map(|holder| holder.id.0)
        };
        // Both have the operator's word, as a newer version let them.
        assert_eq!([1, 2].map(|id| held_by(&desired, id)), [Some(2), Some(1)]);
        let lapsed = Standing::Lapsed { missing: DomainRecord::Spf };
        let domain = SendingDomain { standing: lapsed, ..desired.domains[&SendingDomainId(1)].clone() };
        desired.domains.insert(domain.id, domain);
        assert_eq!([1, 2].map(|id| held_by(&desired, id)), [Some(2), None]);
        desired.head.publishes_shared = true;
        assert_eq!([1, 2].map(|id| held_by(&desired, id)), [None, None]);
    }
}
