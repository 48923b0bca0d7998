//! What the audit trail says of a change: which resources, which fields, from what to what, under which revision.
//!
//! ```text
//! edge: audit_begin -> act        Shared::run: acting(act, the use case)
//! App::change: edit -> check -> tell(act, what would change) -> commit
//! ```
//!
//! Invariants worth naming: it is written before the change is committed, by the thread that commits it, so that nothing
//! is changed without a record of what, be it that the caller goes away or the process dies; a change that another one
//! came before leaves none. It is bounded in octets, says what it leaves out, and has no secret. The act is with the thread
//! and not an argument, so that no use case can forget to hand it on. Absent here: what a check of DNS does by
//! itself, which has records of its own (`checks`).

use std::cell::Cell;

use postrail_schema::limits::{AUDIT_DETAIL_BYTES_MAX, AUDIT_VALUE_BYTES_MAX};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{App, AppError};
use crate::plan::{Change, Changed, Desired, FieldChange};

thread_local! {
    /// The record of the audit trail that this thread works for.
    static ACT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What a request has changed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditDetail {
    /// Under which it is published; absent for suppressions, which have no revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    changes: Vec<Change>,
    /// Resources that were changed as well and are not named, since a record is bounded.
    #[serde(skip_serializing_if = "is_none")]
    left_out: usize,
}

/// Runs `call` for that record of the audit trail.
pub(crate) fn acting<T>(act: Option<u64>, call: impl FnOnce() -> T) -> T {
    /// The thread is lent: also a panic gives it back as it was.
    struct Former(Option<u64>);

    impl Drop for Former {
        fn drop(&mut self) {
            ACT.set(self.0);
        }
    }

    let _former = Former(ACT.replace(act));
    call()
}

impl App {
    /// Tells what leads from `before` to `after`, which is about to be committed.
    ///
    /// # Errors
    /// The ledger fails.
    pub(super) fn tell_change(&self, before: &Desired, after: &Desired) -> Result<(), AppError> {
        // Nobody asks what a change by the process itself is compared to.
        let Some(act) = ACT.get() else { return Ok(()) };
        let changed = Changed::between(before, after);
        if !changed.changes.is_empty() {
            let detail = AuditDetail::of(Some(after.head.revision.0), changed);
            self.ledger.audit_detail(act, &detail.text()?)?;
        }
        Ok(())
    }

    /// Takes back what was told: another change came before.
    ///
    /// # Errors
    /// The ledger fails.
    pub(super) fn untell_change(&self) -> Result<(), AppError> {
        let Some(act) = ACT.get() else { return Ok(()) };
        Ok(self.ledger.audit_detail(act, "")?)
    }

    /// Tells a change of what has no revision.
    ///
    /// # Errors
    /// The ledger fails.
    pub(super) fn tell(&self, change: Option<Change>) -> Result<(), AppError> {
        let (Some(act), Some(change)) = (ACT.get(), change) else { return Ok(()) };
        let changed = Changed { changes: vec![change], left_out: 0 };
        Ok(self.ledger.audit_detail(act, &AuditDetail::of(None, changed).text()?)?)
    }
}

impl AuditDetail {
    /// As much as a record may have of `changed`.
    fn of(revision: Option<u64>, changed: Changed) -> Self {
        let Changed { changes: found, mut left_out } = changed;
        let (mut room, mut is_full) = (AUDIT_DETAIL_BYTES_MAX - FRAME_BYTES, false);
        let mut changes = Vec::with_capacity(found.len());
        for mut change in found {
            change.fields.iter_mut().flat_map(|field| [&mut field.from, &mut field.to]).for_each(cut);
            if octets(&change) > room {
                let told = Value::from(format!("(cut: {} fields)", change.fields.len()));
                change.fields = vec![FieldChange { field: "…".to_owned(), from: Value::Null, to: told }];
            }
            let octets = octets(&change);
            // What is behind the first that has no room has none either, so that what is named is the beginning.
            is_full |= octets > room;
            if is_full {
                left_out += 1;
            } else {
                room -= octets;
                changes.push(change);
            }
        }
        Self { revision, changes, left_out }
    }

    fn text(&self) -> Result<String, AppError> {
        serde_json::to_string(self).map_err(AppError::Encode)
    }
}

/// Cuts a value that is too long for a record.
fn cut(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    if text.len() > AUDIT_VALUE_BYTES_MAX {
        let shown = &text[..text.floor_char_boundary(AUDIT_VALUE_BYTES_MAX)];
        *value = Value::from(format!("{shown}… (cut: {} octets)", text.len()));
    }
}

/// What it takes in a list.
fn octets(change: &Change) -> usize {
    serde_json::to_vec(change).map_or(AUDIT_DETAIL_BYTES_MAX, |json| json.len() + 1)
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

/// What a record takes beside its changes.
const FRAME_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

    fn change(fields: usize, octets: usize) -> Change {
        let field =
            |n| FieldChange { field: format!("f{n}"), from: Value::Null, to: Value::from("ä".repeat(octets / 2)) };
        Change { action: Action::Added, kind: "tenant", name: "red".into(), fields: (0..fields).map(field).collect() }
    }

    #[test]
    fn a_record_has_a_bound_in_octets_and_says_what_was_cut() {
        for (count, fields, octets) in [(1, 1, 2_000), (90, 4, 40), (90, 10, 2_000), (3, 100, 2_000), (5_000, 0, 0)] {
            let changes = (0..count).map(|_| change(fields, octets)).collect();
            let detail = AuditDetail::of(Some(7), Changed { changes, left_out: 5 });
            let text = detail.text().unwrap();
            assert!(text.len() <= AUDIT_DETAIL_BYTES_MAX, "{count} changes of {fields} fields: {}", text.len());
            assert_eq!(detail.changes.len() + detail.left_out, count + 5);
            assert!(!detail.changes.is_empty());
            assert_eq!(
                text.contains("(cut: 2000 octets)") || text.contains("(cut: 100 fields)"),
                octets > 40,
                "{text}"
            );
        }
    }
}
