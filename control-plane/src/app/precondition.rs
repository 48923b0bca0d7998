//! What has to be true of a resource for a change to be made: that it is still what the caller has read (If-Match).
//!
//! Invariant worth naming: it is checked where the change is made, on the state that is changed, so nothing comes between.

use serde::Serialize;
use serde_json::{Map, Value};

use super::AppError;
use crate::plan::{Action, Change, DocumentEntry, entity_tag, fields, record};

/// The entity tags that the caller would change, and what it sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precondition {
    /// `None`: whatever is there.
    tags: Option<Vec<String>>,
    was_given: bool,
    /// What was sent, for the difference; `None`: it is to be deleted.
    sent: Option<Map<String, Value>>,
}

impl Precondition {
    /// The value of an If-Match field: entity tags, or `*`. Weak tags never match (RFC 9110 13.1.1).
    pub(crate) fn if_match(field: &str) -> Self {
        let tags = field.split(',').map(|tag| tag.trim().to_owned()).collect::<Vec<_>>();
        Self { tags: (!tags.iter().any(|tag| tag == "*")).then_some(tags), was_given: true, sent: None }
    }

    /// The same for a change that sends `body`.
    #[must_use]
    pub(crate) fn sending(self, body: &impl Serialize) -> Self {
        Self { sent: Some(record(body)), ..self }
    }

    /// The same for a request that gives it a new secret.
    #[must_use]
    pub(crate) fn rotating(self) -> Self {
        // The difference shows no hash.
        self.sending(&serde_json::json!({ "secret_hashes": ["new"] }))
    }

    /// Whether the caller has said anything, be it `*`.
    pub(crate) fn was_given(&self) -> bool {
        self.was_given
    }

    /// Whether it holds for whatever is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.tags.is_none()
    }

    pub(crate) fn holds(&self, tag: impl FnOnce() -> String) -> bool {
        self.tags.as_ref().is_none_or(|tags| tags.contains(&tag()))
    }

    /// # Errors
    /// `current` is not what the caller has read: [`AppError::Stale`] with the fields in which what was sent differs from it.
    pub(crate) fn check<E: DocumentEntry>(&self, current: &E) -> Result<(), AppError> {
        if self.holds(|| entity_tag(current)) {
            return Ok(());
        }
        let is = record(current);
        let (action, fields) = match &self.sent {
            None => (Action::Removed, fields(&is, &Map::new())),
            Some(sent) => {
                let mut wanted = is.clone();
                wanted.extend(sent.iter().map(|(field, value)| (field.clone(), value.clone())));
                (Action::Changed, fields(&is, &wanted))
            }
        };
        let change = Change { action, kind: E::KIND, name: current.name(), fields };
        Err(AppError::Stale { tag: entity_tag(current), difference: vec![change] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_strong_tag_that_is_present_or_a_star_matches() {
        let holds = |field: &str| Precondition::if_match(field).holds(|| "\"a\"".to_owned());
        assert!(holds("\"a\"") && holds("\"b\", \"a\"") && holds("*") && Precondition::default().holds(String::new));
        assert!(!holds("\"b\"") && !holds("W/\"a\"") && !holds("") && !holds("a"));
    }
}
