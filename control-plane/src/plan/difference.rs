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

    /// What leads from one state of an entry to another, with all that went; `None`: nothing.
    pub(crate) fn of<E: DocumentEntry + PartialEq>(before: Option<&E>, after: Option<&E>) -> Option<Self> {
        let named = after.or(before)?;
        if before == after {
            return None;
        }
        let action = match (before, after) {
            (None, _) => Action::Added,
            (_, None) => Action::Removed,
            _ => Action::Changed,
        };
        let record = |entry: Option<&E>| entry.map(record).unwrap_or_default();
        Some(Self { action, kind: E::KIND, name: named.name(), fields: fields(&record(before), &record(after)) })
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
        if self.field == SEALED_KEYS {
            hide_keys(&mut self.from, &mut self.to);
        } else if SECRET_FIELDS.contains(&self.field.as_str()) {
            for (value, shown) in [(&mut self.from, FORMER), (&mut self.to, NEW)] {
                if !value.is_null() {
                    *value = Value::from(shown);
                }
            }
        }
    }
}

/// Of keys, what everybody may know is shown, and whether the private one is another than before.
fn hide_keys(from: &mut Value, to: &mut Value) {
    let sealed = |keys: &Value| -> Vec<Value> {
        let keys = keys.as_array().map(Vec::as_slice).unwrap_or_default();
        keys.iter().map(|key| key[PRIVATE_KEY].clone()).collect()
    };
    let (former, new) = (sealed(from), sealed(to));
    for (keys, others, shown) in [(from, &new, FORMER), (to, &former, NEW)] {
        for key in keys.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            let is_kept = key.get(PRIVATE_KEY).is_some_and(|private| others.contains(private));
            key.remove(PUBLIC_KEY);
            key.insert(PRIVATE_KEY.to_owned(), Value::from(if is_kept { "(as it was)" } else { shown }));
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
        let (before, after) = (known.get(name).copied(), wanted.get(name).copied());
        let change = Change::of(before, after);
        // What goes needs no more than its name.
        to.extend(change.map(|change| if after.is_some() { change } else { Change { fields: Vec::new(), ..change } }));
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
const SECRET_FIELDS: [&str; 2] = ["secret_hashes", "marks"];
/// One whose values are shown in part.
const SEALED_KEYS: &str = "sealed_keys";
const PRIVATE_KEY: &str = "sealed_private_key";
/// It is long, and in DNS.
const PUBLIC_KEY: &str = "public_key";
/// What is said in the place of a secret.
const FORMER: &str = "(former)";
const NEW: &str = "(new)";

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
        let told: Vec<_> = found.iter().map(|change| (change.action, change.kind, change.name.as_str())).collect();
        let (added, changed, removed) = (Action::Added, Action::Changed, Action::Removed);
        let wanted = [
            (removed, "tenant", "blue"),
            (added, "tenant", "green"),
            (changed, "tenant", "red"),
            (changed, "credential", "app"),
        ];
        assert_eq!(told, wanted);
        assert_eq!(found[2].fields, [FieldChange { field: "weight".into(), from: json!(2), to: json!(3) }]);
        let shown = serde_json::to_string(&found).unwrap();
        assert!(!shown.contains("$old") && !shown.contains("$new"), "{shown}");
        assert_eq!(difference(&before, &before), []);
    }

    #[test]
    fn keys_are_told_by_what_is_public_and_by_whether_they_are_new() {
        let key = |selector: &str, sealed: &str, stage: &str| {
            json!({ "selector": selector, "algorithm": "ed25519-sha256", "public_key": "cHVibGlj",
                "sealed_private_key": sealed, "stage": { "state": stage } })
        };
        let with = |keys: Value| {
            document(json!({ "domains": [{ "name": "a.example", "tenant": "red", "sealed_keys": keys }],
                "credentials": [{ "username": "app", "tenant": "red", "marks": [keys[0]["sealed_private_key"]] }] }))
        };
        let before = with(json!([key("one", "c2VhbGVkMQ", "signing")]));
        let after = with(json!([key("one", "c2VhbGVkMQ", "retired"), key("two", "c2VhbGVkMg", "signing")]));
        let found = difference(&before, &after);
        let FieldChange { from, to, .. } = &found[0].fields[0];
        assert_eq!((&from[0]["selector"], &from[0]["sealed_private_key"]), (&json!("one"), &json!("(as it was)")));
        assert_eq!(
            (&to[0]["stage"]["state"], &to[1]["sealed_private_key"]),
            (&json!("retired"), &json!("(new)")),
            "{to}"
        );
        let again = difference(&before, &with(json!([key("one", "YW5vdGhlcg", "signing")])));
        let shown = serde_json::to_string(&[&found, &again]).unwrap();
        assert!(!shown.contains("c2Vhb") && !shown.contains("YW5v"), "{shown}");
        assert_eq!(again[0].fields[0].to, "(new)", "marks of a secret");
    }
}
