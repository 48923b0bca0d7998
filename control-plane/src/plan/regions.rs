//! Findings about regions and who runs in them.

use std::collections::{BTreeMap, BTreeSet};

use postrail_schema::problem::{Problem, Severity};

use super::Desired;

/// Who runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Presence {
    /// The region of each data plane by its name; empty: none.
    pub hosts: BTreeMap<String, String>,
    /// Regions whose control planes have a leader; empty: those without a region.
    pub leaders: BTreeSet<String>,
    /// Whether control planes without a region have ever run: they keep the suppressions of tenants without one.
    pub has_home: bool,
}

/// What of `desired` does not go together with who runs.
pub(crate) fn region_problems(desired: &Desired, presence: &Presence) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |severity, code, subject: String, detail: String| {
        problems.push(Problem { severity, code, subject, detail });
    };
    for region in desired.regions.values() {
        let (name, tenants) =
            (&region.name, desired.tenants.values().filter(|tenant| tenant.region == Some(region.id)));
        let count = tenants.count();
        if count > 0 && !presence.hosts.values().any(|of| of == name) {
            let detail = format!(
                "{count} of the tenants are in it, and no data plane of it runs, so that their mail is refused everywhere; \
                 start one with --region {name}"
            );
            add(Severity::Warning, "region_without_host", format!("region/{name}"), detail);
        }
    }
    for (host, region) in presence.hosts.iter().filter(|(_, region)| !region.is_empty()) {
        if desired.region(region).is_none() {
            let detail = format!(
                "it is in region {region}, which nobody has made, so that it serves tenants without a region alone; \
                 make it: postrail region add {region} --submission-host NAME"
            );
            add(Severity::Warning, "unknown_region", format!("host/{host}"), detail);
        }
    }
    let unled = presence.hosts.values().filter(|region| !presence.leaders.contains(*region)).collect::<BTreeSet<_>>();
    for region in unled {
        let (subject, option) = match region.as_str() {
            "" => ("region/".to_owned(), "without --region".to_owned()),
            name => (format!("region/{name}"), format!("with --region {name}")),
        };
        let detail = format!(
            "data planes of it run, and no control plane: events wait in their journals, suppressions do not come, and its \
             tenants' domains are not checked; start one {option}, with a ledger of its own"
        );
        add(Severity::Warning, "region_without_control_plane", subject, detail);
    }
    problems.extend(without_region(desired, presence));
    problems
}

/// What there is to say of tenants without a region, where there are regions.
fn without_region(desired: &Desired, presence: &Presence) -> Vec<Problem> {
    let without: Vec<_> = desired.tenants.values().filter(|tenant| tenant.region.is_none()).collect();
    let Some(first) = without.iter().map(|tenant| &tenant.name).min().filter(|_| !desired.regions.is_empty()) else {
        return Vec::new();
    };
    let (which, they) = match without.len() - 1 {
        0 => (first.clone(), "has"),
        more => (format!("{first} and {more} more"), "have"),
    };
    let said = |severity, code, what: &str| {
        let detail = format!("{which} {they} no region{what}");
        Problem { severity, code, subject: "tenant/".to_owned(), detail }
    };
    let mut problems = vec![said(
        Severity::Note,
        "tenant_without_region",
        ": every host has their keys and takes their mail, their events are in the ledger of the region that they came up \
         in, and their suppressions in that of the control planes without a region and, as a copy, in that of each region",
    )];
    let is_any_in_one = presence.hosts.values().chain(&presence.leaders).any(|region| !region.is_empty());
    match (presence.has_home, presence.leaders.contains("")) {
        _ if !is_any_in_one => {}
        (_, true) => {}
        (true, false) => problems.push(said(
            Severity::Warning,
            "suppressions_without_home",
            ", and no control plane without --region runs: their suppressions cannot be changed, and regions go on with the \
             copies that they have; start it again",
        )),
        (false, false) => problems.push(said(
            Severity::Warning,
            "suppressions_by_region",
            ", and no control plane without --region has ever run: their suppressions hold in the region alone where they \
             were made; start one, which keeps them for all regions",
        )),
    }
    problems
}
