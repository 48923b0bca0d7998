//! What the leader tells of the use of daily quotas: see [`crate::intake::quota`].
//!
//! The answer names this process, so that the leader tells everything again to one that has started anew, and its day, so
//! that what had no effect is told again: clocks differ.

use postrail_core::base::Timestamp;
use postrail_core::http::Problem;
use postrail_schema::day::Day;
use postrail_schema::ids::TenantId;
use postrail_schema::limits::QUOTA_TELLS_MAX;
use serde::Deserialize;

use crate::intake::quota::{Counted, Usage};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tell {
    day: Day,
    /// Tenant, what is counted of this host, what is counted of all others.
    tenants: Vec<(TenantId, u64, u64)>,
}

/// Takes the body of a request, and gives the day of `now`. What is of another day has no effect.
pub(super) fn tell(usage: &Usage, body: &[u8], now: Timestamp) -> Result<Day, Problem> {
    let Tell { day, tenants } = super::parse(body)?;
    if tenants.len() > QUOTA_TELLS_MAX {
        let detail = format!("one request tells of at most {QUOTA_TELLS_MAX} tenants");
        return Err(Problem::new(413, "too_many_tenants", detail));
    }
    let today = now.day();
    if day == today {
        usage.tell(now, tenants.into_iter().map(|(tenant, own, others)| Counted { tenant, own, others }));
    }
    Ok(today)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(20_786 * 86_400_000 + 5);

    fn told(body: &str) -> Result<Usage, u16> {
        let usage = Usage::default();
        tell(&usage, body.as_bytes(), NOW).map(|_| usage).map_err(|problem| problem.status)
    }

    #[test]
    fn garbage_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"day":20786}"#,
            r#"{"day":-1,"tenants":[]}"#,
            r#"{"day":20786,"tenants":[[1,2]]}"#,
            r#"{"day":20786,"tenants":[[1,2,3,4]]}"#,
            r#"{"day":20786,"tenants":[[1,2,-3]]}"#,
            r#"{"day":20786,"tenants":[[4294967296,2,3]]}"#,
            r#"{"day":20786,"tenants":[],"more":1}"#,
        ] {
            assert_eq!(told(body).err(), Some(400), "{body}");
        }
    }

    #[test]
    fn a_whole_request_fits_and_one_tenant_more_does_not() {
        let row = format!("[{},{},{}]", u32::MAX, u64::MAX, u64::MAX);
        let body = |rows: usize| format!(r#"{{"day":20786,"tenants":[{}]}}"#, vec![row.as_str(); rows].join(","));
        assert!(body(QUOTA_TELLS_MAX).len() <= super::super::BODY_BYTES_MAX);
        assert!(told(&body(QUOTA_TELLS_MAX)).is_ok());
        assert_eq!(told(&body(QUOTA_TELLS_MAX + 1)).err(), Some(413));
    }

    #[test]
    fn another_day_has_no_effect() {
        for (day, is_kept) in [(20_785, false), (20_786, true), (20_787, false)] {
            let usage = told(&format!(r#"{{"day":{day},"tenants":[[7,1,2]]}}"#)).unwrap();
            assert_eq!(usage.total(NOW), if is_kept { (1, 2) } else { (0, 0) }, "day {day}");
            assert_eq!(usage.told_ms() > 0, is_kept, "day {day}");
        }
    }
}
