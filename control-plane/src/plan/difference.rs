//! What one document has that another has not, entry by entry and field by field.
//!
//! Invariants worth naming: secrets are told to differ, never shown; equal documents have no difference. Both documents
//! have all kinds, as [`Document::of`] makes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::document::{Document, DocumentEntry};

/// One resource that differs.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub(crate) struct Change {
    pub action: Action,
    /// Such as `tenant`.
    pub kind: &'static str,
    /// Empty for settings.
    pub name: String,
    /// What differs of it; of one that is added, all that it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Added,
    Changed,
    Removed,
}

/// One field of it.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub(crate) struct FieldChange {
    pub field: String,
    /// Null: it has none.
    pub from: Value,
    pub to: Value,
}

impl Change {
    /// How many are added, changed and removed.
    pub(crate) fn counts(changes: &[Self]) -> [usize; 3] {
        let count = |action| changes.iter().filter(|change| change.action == action).count();
        [count(Action::Added), count(Action::Changed), count(Action::Removed)]
    }

    /// Such as `~ tenant/red`.
    pub(crate) fn line(&self) -> String {
        let sign = match self.action {
            Action::Added => '+',
            Action::Changed => '~',
            Action::Removed => '-',
        };
        if self.name.is_empty() {
            format!("{sign} {}", self.kind)
        } else {
            format!("{sign} {}/{}", self.kind, self.name)
        }
    }
}

/// What leads from `before` to `after`.
pub(crate) fn difference(before: &Document, after: &Document) -> Vec<Change> {
    let mut to = Vec::new();
    compare(before.settings.as_slice(), after.settings.as_slice(), &mut to);
    compare(list(&before.regions), list(&after.regions), &mut to);
    compare(list(&before.tenants), list(&after.tenants), &mut to);
    compare(list(&before.operators), list(&after.operators), &mut to);
    compare(list(&before.credentials), list(&after.credentials), &mut to);
    compare(list(&before.sources), list(&after.sources), &mut to);
    compare(list(&before.pools), list(&after.pools), &mut to);
    compare(list(&before.domains), list(&after.domains), &mut to);
    compare(list(&before.routes), list(&after.routes), &mut to);
    compare(list(&before.suspensions), list(&after.suspensions), &mut to);
    compare(list(&before.retry_policies), list(&after.retry_policies), &mut to);
    compare(list(&before.routing_rules), list(&after.routing_rules), &mut to);
    compare(list(&before.providers), list(&after.providers), &mut to);
    compare(list(&before.shaping_rules), list(&after.shaping_rules), &mut to);
    compare(list(&before.listeners), list(&after.listeners), &mut to);
    compare(list(&before.tls_rules), list(&after.tls_rules), &mut to);
    to
}

/// The fields in which two records differ.
pub(crate) fn fields(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<FieldChange> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes = names.into_iter().map(|field| FieldChange {
        field: field.clone(),
        from: before.get(field).cloned().unwrap_or_default(),
        to: after.get(field).cloned().unwrap_or_default(),
    });
    let mut changes: Vec<_> = changes.filter(|change| change.from != change.to).collect();
    changes.iter_mut().for_each(FieldChange::hide_secrets);
    changes
}

impl FieldChange {
    fn hide_secrets(&mut self) {
        if SECRET_FIELDS.contains(&self.field.as_str()) {
            for (value, shown) in [(&mut self.from, "(former)"), (&mut self.to, "(new)")] {
                if !value.is_null() {
                    *value = Value::from(shown);
                }
            }
        }
    }
}

fn list<E>(entries: &Option<Vec<E>>) -> &[E] {
    entries.as_deref().unwrap_or_default()
}

fn compare<E: DocumentEntry + PartialEq>(before: &[E], after: &[E], to: &mut Vec<Change>) {
    let known: BTreeMap<String, &E> = before.iter().map(|entry| (entry.name(), entry)).collect();
    let wanted: BTreeMap<String, &E> = after.iter().map(|entry| (entry.name(), entry)).collect();
    let names: BTreeSet<&String> = known.keys().chain(wanted.keys()).collect();
    for name in names {
        let (action, fields) = match (known.get(name), wanted.get(name)) {
            (Some(before), Some(after)) if before == after => continue,
            (Some(before), Some(after)) => (Action::Changed, fields(&record(*before), &record(*after))),
            (None, Some(after)) => (Action::Added, fields(&Map::new(), &record(*after))),
            (Some(_), None) => (Action::Removed, Vec::new()),
            (None, None) => continue,
        };
        to.push(Change { action, kind: E::KIND, name: name.clone(), fields });
    }
}

/// An entry as JSON.
pub(crate) fn record(entry: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(entry) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Fields whose values are not shown.
const SECRET_FIELDS: [&str; 2] = ["secret_hashes", "sealed_keys"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(value: Value) -> Document {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_difference_names_what_came_what_changed_and_what_went() {
        let before = document(json!({
            "tenants": [{ "name": "blue" }, { "name": "red", "weight": 2 }],
            "credentials": [{ "username": "app", "tenant": "red", "secret_hashes": ["$old"] }],
        }));
        let after = document(json!({
            "tenants": [{ "name": "green" }, { "name": "red", "weight": 3 }],
            "credentials": [{ "username": "app", "tenant": "red", "secret_hashes": ["$new"] }],
        }));
        let found = difference(&before, &after);
        let lines: Vec<_> = found.iter().map(Change::line).collect();
        assert_eq!(lines, ["- tenant/blue", "+ tenant/green", "~ tenant/red", "~ credential/app"]);
        assert_eq!(found[2].fields, [FieldChange { field: "weight".into(), from: json!(2), to: json!(3) }]);
        let shown = serde_json::to_string(&found).unwrap();
        assert!(!shown.contains("$old") && !shown.contains("$new"), "{shown}");
        assert_eq!(difference(&before, &before), []);
    }
}
