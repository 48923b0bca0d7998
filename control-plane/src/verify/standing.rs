//! What a check decides: the next standing of a domain. Pure.
//!
//! Ownership, SPF, one DKIM key and DMARC are needed. What no server could say decides nothing: such a domain stays as it is.
//! A verified domain that lacks something keeps sending for [`DOMAIN_GRACE`]: DNS changes hands and goes wrong, and
//! stopping the mail of a shop for a slip in a zone harms more than a few days of mail that says where it is from less well.

use postrail_schema::limits::DOMAIN_GRACE;
use postrail_schema::standing::{DomainRecord, Standing};

use super::{Purpose, RecordCheck, RecordState};

/// A standing, and since when the domain has it (Unix milliseconds).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub standing: Standing,
    pub since_ms: u64,
}

/// The standing after a check.
pub(crate) fn next(held: Held, checks: &[RecordCheck], now_ms: u64) -> Held {
    let lacks = |wanted: State| DomainRecord::ALL.into_iter().find(|record| state(*record, checks) == wanted);
    let (unmet, unknown) = (lacks(State::Unmet), lacks(State::Unknown));
    let over = now_ms.saturating_sub(held.since_ms) >= u64::try_from(DOMAIN_GRACE.as_millis()).unwrap_or(u64::MAX);
    let standing = match (held.standing, unmet, unknown) {
        (Standing::Trusted, ..) => Standing::Trusted,
        (_, None, None) => Standing::Verified,
        (Standing::Unproved { .. }, Some(missing), _) | (Standing::Unproved { .. }, None, Some(missing)) => {
            Standing::Unproved { missing }
        }
        (Standing::Lapsed { .. }, Some(missing), _) => Standing::Lapsed { missing },
        (Standing::Failing, Some(missing), _) if over => Standing::Lapsed { missing },
        (Standing::Verified | Standing::Failing, Some(_), _) => Standing::Failing,
        (same, None, Some(_)) => same,
    };
    let same = std::mem::discriminant(&standing) == std::mem::discriminant(&held.standing);
    Held { standing, since_ms: if same { held.since_ms } else { now_ms } }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Met,
    Unmet,
    Unknown,
}

/// Of several keys one is enough: a receiver that finds one good signature is content.
fn state(record: DomainRecord, checks: &[RecordCheck]) -> State {
    let purpose = match record {
        DomainRecord::Ownership => Purpose::Ownership,
        DomainRecord::Spf => Purpose::Spf,
        DomainRecord::Dkim => Purpose::Dkim,
        DomainRecord::Dmarc => Purpose::Dmarc,
    };
    let states: Vec<_> = checks.iter().filter(|check| check.purpose == purpose).map(|check| check.state).collect();
    if states.is_empty() || states.contains(&RecordState::Ok) {
        // A domain without keys is one whose owner wants no signatures.
        State::Met
    } else if states.contains(&RecordState::Unreachable) {
        State::Unknown
    } else {
        State::Unmet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn checks(states: [RecordState; 5]) -> Vec<RecordCheck> {
        let purposes = [Purpose::Ownership, Purpose::Spf, Purpose::Dkim, Purpose::Dkim, Purpose::Dmarc];
        let check = |(purpose, state)| RecordCheck {
            purpose,
            name: String::new(),
            state,
            found: Vec::new(),
            server: None,
            servers: Vec::new(),
            detail: String::new(),
            advice: String::new(),
            since_ms: 0,
        };
        purposes.into_iter().zip(states).map(check).collect()
    }

    #[test]
    fn a_check_moves_a_domain_as_the_table_says() {
        use RecordState::{Missing, Ok, Unreachable, Wrong};
        let unproved = Standing::Unproved { missing: DomainRecord::Ownership };
        let without = |missing| Standing::Unproved { missing };
        let lapsed = |missing| Standing::Lapsed { missing };
        let all = [Ok, Ok, Ok, Ok, Ok];
        let one_key = [Ok, Ok, Wrong, Ok, Ok];
        let no_key = [Ok, Ok, Wrong, Missing, Ok];
        let unknown = [Ok, Unreachable, Ok, Ok, Ok];
        let cases = [
            ("all is there", unproved, 0, all, Standing::Verified),
            ("one key of two is enough", unproved, 0, one_key, Standing::Verified),
            ("the first missing is named", unproved, 0, [Missing, Wrong, Ok, Ok, Ok], unproved),
            ("then the next", unproved, 0, no_key, without(DomainRecord::Dkim)),
            ("not known is not proved", unproved, 0, unknown, without(DomainRecord::Spf)),
            ("nothing is held against the unreachable", Standing::Verified, 99, unknown, Standing::Verified),
            ("a verified domain begins to fail", Standing::Verified, 99, no_key, Standing::Failing),
            ("within the grace it goes on", Standing::Failing, 4, no_key, Standing::Failing),
            ("after it the domain lapses", Standing::Failing, 5, no_key, lapsed(DomainRecord::Dkim)),
            ("an outage does not end the grace", Standing::Failing, 5, unknown, Standing::Failing),
            ("what comes back is verified", Standing::Failing, 4, all, Standing::Verified),
            ("a lapsed domain comes back", lapsed(DomainRecord::Spf), 9, all, Standing::Verified),
            ("and stays lapsed while unknown", lapsed(DomainRecord::Spf), 9, unknown, lapsed(DomainRecord::Spf)),
            ("the operator's word stands", Standing::Trusted, 9, [Missing; 5], Standing::Trusted),
        ];
        for (what, standing, days, states, expected) in cases {
            let held = Held { standing, since_ms: 1_000 };
            let now = 1_000 + days * DAY_MS;
            let after = next(held, &checks(states), now);
            assert_eq!(after.standing, expected, "{what}");
            let moved = after.standing.name() != standing.name();
            assert_eq!(after.since_ms, if moved { now } else { 1_000 }, "{what}");
        }
    }
}
