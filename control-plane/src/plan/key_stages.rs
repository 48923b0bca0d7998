//! The stages of a domain's DKIM keys, and what moves a key from one to the next. Pure: the time is an argument.
//!
//! ```text
//! Waiting --record seen, or the operator's word--> Signing --a successor signs--> Former --time--> Retired --gone--> (none)
//! ```
//!
//! Invariants worth naming: of each algorithm at most one key waits and one signs; a key that has stopped signing keeps its
//! record for [`DKIM_OVERLAP`]; the private key is dropped when the record may go, and not before, so that a successor can be
//! taken back. Absent here: making keys, and looking at DNS.

use postrail_schema::limits::DKIM_OVERLAP;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm, KeyStage};

use crate::verify::RecordState;

/// Makes `key` one of `keys`, behind those of its algorithm, so that the order of signatures stays.
pub(crate) fn add(keys: &mut Vec<DkimKey>, key: DkimKey) {
    let at = keys.iter().rposition(|other| other.algorithm == key.algorithm).map_or(keys.len(), |at| at + 1);
    keys.insert(at, key);
}

/// From now on the key of that selector signs, in the place of the one that signed with its algorithm.
pub(crate) fn sign_with(keys: &mut [DkimKey], selector: &str, now_ms: u64) {
    let Some(algorithm) = keys.iter().find(|key| key.selector == selector).map(|key| key.algorithm) else { return };
    for key in keys.iter_mut().filter(|key| key.algorithm == algorithm) {
        let stage = match key.stage {
            _ if key.selector == selector => KeyStage::Signing,
            KeyStage::Signing => former(now_ms),
            stage => stage,
        };
        move_to(key, stage, now_ms);
    }
}

/// A key that signs stops; one that has stopped needs no record any more.
pub(crate) fn retire(key: &mut DkimKey, now_ms: u64) {
    match key.stage {
        KeyStage::Signing => move_to(key, former(now_ms), now_ms),
        KeyStage::Waiting | KeyStage::Former { .. } => move_to(key, KeyStage::Retired, now_ms),
        KeyStage::Retired => {}
    }
}

/// What `keys` are after a look at their records: `state` tells what was found under a selector.
pub(crate) fn advance(
    mut keys: Vec<DkimKey>,
    state: impl Fn(&str) -> Option<RecordState>,
    now_ms: u64,
) -> Vec<DkimKey> {
    keys.retain(|key| key.stage != KeyStage::Retired || state(&key.selector) != Some(RecordState::Missing));
    for key in &mut keys {
        if matches!(key.stage, KeyStage::Former { until_ms } if until_ms <= now_ms) {
            move_to(key, KeyStage::Retired, now_ms);
        }
    }
    let seen = |key: &&DkimKey| key.stage == KeyStage::Waiting && state(&key.selector) == Some(RecordState::Ok);
    let seen: Vec<_> = keys.iter().filter(seen).map(|key| key.selector.clone()).collect();
    seen.iter().for_each(|selector| sign_with(&mut keys, selector, now_ms));
    keys
}

/// The algorithms whose key has signed for `days`, and has no successor yet.
pub(crate) fn due(keys: &[DkimKey], days: u32, now_ms: u64) -> Vec<KeyAlgorithm> {
    let period_ms = u64::from(days) * 24 * 3_600_000;
    let is_old = |key: &&DkimKey| key.stage.signs() && now_ms.saturating_sub(key.since_ms) >= period_ms;
    keys.iter().filter(is_old).map(|key| key.algorithm).filter(|algorithm| !waits(keys, *algorithm)).collect()
}

/// Whether a key of that algorithm waits for its record.
pub(crate) fn waits(keys: &[DkimKey], algorithm: KeyAlgorithm) -> bool {
    keys.iter().any(|key| key.algorithm == algorithm && key.stage == KeyStage::Waiting)
}

fn former(now_ms: u64) -> KeyStage {
    KeyStage::Former { until_ms: now_ms + u64::try_from(DKIM_OVERLAP.as_millis()).unwrap_or(u64::MAX) }
}

fn move_to(key: &mut DkimKey, stage: KeyStage, now_ms: u64) {
    if stage == KeyStage::Retired {
        key.sealed_private_key.clear();
    }
    if key.stage != stage {
        (key.stage, key.since_ms) = (stage, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use postrail_schema::ids::KeyId;

    use super::*;

    const DAY_MS: u64 = 24 * 3_600_000;

    fn key(id: u32, algorithm: KeyAlgorithm, stage: KeyStage) -> DkimKey {
        let (selector, public_key) = (format!("s{id}"), String::new());
        DkimKey { id: KeyId(id), selector, algorithm, sealed_private_key: vec![1], public_key, stage, since_ms: 0 }
    }

    fn stages(keys: &[DkimKey]) -> Vec<(&str, &'static str)> {
        keys.iter().map(|key| (key.selector.as_str(), key.stage.name())).collect()
    }

    #[test]
    fn a_successor_signs_once_its_record_is_seen_and_the_former_record_stays_for_a_while() {
        use KeyAlgorithm::{Ed25519Sha256, RsaSha256};
        let mut keys = vec![key(1, RsaSha256, KeyStage::Signing), key(2, Ed25519Sha256, KeyStage::Signing)];
        add(&mut keys, key(3, RsaSha256, KeyStage::Waiting));
        for state in [RecordState::Missing, RecordState::Wrong, RecordState::Unreachable] {
            assert_eq!(advance(keys.clone(), |_| Some(state), DAY_MS), keys, "{state:?}");
        }
        let keys = advance(keys, |_| Some(RecordState::Ok), DAY_MS);
        assert_eq!(stages(&keys), [("s1", "former"), ("s3", "signing"), ("s2", "signing")]);
        let overlap_ms = u64::try_from(DKIM_OVERLAP.as_millis()).unwrap();
        assert_eq!(keys[0].stage, KeyStage::Former { until_ms: DAY_MS + overlap_ms });
        let keys = advance(keys, |_| Some(RecordState::Missing), DAY_MS + overlap_ms - 1);
        assert!(keys[0].stage.name() == "former" && !keys[0].sealed_private_key.is_empty());
        let keys = advance(keys, |_| Some(RecordState::Ok), DAY_MS + overlap_ms);
        assert!(keys[0].stage == KeyStage::Retired && keys[0].sealed_private_key.is_empty());
        let there = |selector: &str| Some(if selector == "s1" { RecordState::Unreachable } else { RecordState::Ok });
        assert_eq!(advance(keys.clone(), there, 0).len(), 3, "nobody knows whether the record is gone");
        let gone = |selector: &str| Some(if selector == "s1" { RecordState::Missing } else { RecordState::Ok });
        assert_eq!(stages(&advance(keys, gone, 0)), [("s3", "signing"), ("s2", "signing")]);
    }

    #[test]
    fn a_key_that_has_stopped_signing_can_be_taken_back() {
        let mut keys = vec![
            key(1, KeyAlgorithm::RsaSha256, KeyStage::Former { until_ms: 9 }),
            key(2, KeyAlgorithm::RsaSha256, KeyStage::Signing),
        ];
        sign_with(&mut keys, "s1", 5);
        assert_eq!(stages(&keys), [("s1", "signing"), ("s2", "former")]);
        retire(&mut keys[1], 6);
        assert!(keys[1].stage == KeyStage::Retired && keys[1].sealed_private_key.is_empty());
        retire(&mut keys[0], 7);
        assert_eq!((keys[0].stage.name(), keys[0].since_ms), ("former", 7));
    }

    #[test]
    fn a_key_is_due_for_a_successor_after_its_days_and_only_for_one() {
        let mut keys = vec![key(1, KeyAlgorithm::RsaSha256, KeyStage::Signing)];
        keys[0].since_ms = DAY_MS;
        assert_eq!(due(&keys, 30, 31 * DAY_MS - 1), []);
        assert_eq!(due(&keys, 30, 31 * DAY_MS), [KeyAlgorithm::RsaSha256]);
        add(&mut keys, key(2, KeyAlgorithm::RsaSha256, KeyStage::Waiting));
        assert_eq!(due(&keys, 30, 99 * DAY_MS), []);
    }
}
