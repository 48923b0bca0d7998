//! What resources of desired state share: each is shown with the entity tag of its entry in the document, and what is made,
//! changed, found or removed is answered alike.
//!
//! Absent here: who may ask and what a body says, which are each resource's own.

use axum::http::StatusCode;
use serde::{Serialize, Serializer};

use super::Shared;
use super::extract::Tagged;
use super::problem::ProblemDocument;
use crate::app::{App, AppError};
use crate::plan::{Desired, DocumentEntry, entity_tag};

/// A record of desired state, as the API shows it.
pub(crate) trait Resource: Send + 'static {
    type View: Serialize;
    /// As the document has it: what its entity tag is of.
    type Entry: DocumentEntry;

    fn entry(&self, desired: &Desired) -> Self::Entry;

    fn view(&self, desired: &Desired) -> Self::View;

    fn tagged(&self, desired: &Desired) -> Tagged<Self::View> {
        Tagged(entity_tag(&self.entry(desired)), self.view(desired))
    }
}

/// A value that was sent, for the difference to one that is stored: a default is stored as absence.
///
/// # Errors
/// The serializer's.
pub(crate) fn unless_default<T: Serialize + Default + PartialEq, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if *value == T::default() { serializer.serialize_none() } else { value.serialize(serializer) }
}

/// The answer with what was looked for under `name`.
///
/// # Errors
/// 404: there is none, or none that the caller sees.
pub(crate) fn shown<R: Resource>(
    desired: &Desired,
    found: Option<&R>,
    name: &str,
) -> Result<Tagged<R::View>, ProblemDocument> {
    let found =
        found.ok_or_else(|| ProblemDocument::not_found(&format!("{} {name}", R::Entry::KIND.replace('_', " "))))?;
    Ok(found.tagged(desired))
}

impl Shared {
    /// Makes a resource: 201 with it.
    pub(crate) async fn made<R: Resource>(
        &self,
        make: impl FnOnce(&App) -> Result<R, AppError> + Send + 'static,
    ) -> Result<(StatusCode, Tagged<R::View>), ProblemDocument> {
        Ok((StatusCode::CREATED, self.changed(make).await?))
    }

    /// Changes a resource: 200 with it as it is then.
    pub(crate) async fn changed<R: Resource>(
        &self,
        change: impl FnOnce(&App) -> Result<R, AppError> + Send + 'static,
    ) -> Result<Tagged<R::View>, ProblemDocument> {
        let changed = self.run(change).await?;
        Ok(changed.tagged(&self.app.desired()))
    }

    /// Removes a resource: 204.
    pub(crate) async fn removed(
        &self,
        remove: impl FnOnce(&App) -> Result<(), AppError> + Send + 'static,
    ) -> Result<StatusCode, ProblemDocument> {
        self.run(remove).await?;
        Ok(StatusCode::NO_CONTENT)
    }
}
