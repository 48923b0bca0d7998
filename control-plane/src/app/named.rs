//! Records of desired state whose name is their id: made, replaced and removed alike.
//!
//! Deliberately absent: what an entry may say, which is each kind's own, and records with numbers for ids.

use super::{App, AppError, Precondition};
use crate::plan::{Desired, DocumentEntry, Record};

/// What is named, for messages, and how a document has it, which is what preconditions are about.
pub(super) struct Named<R, E> {
    pub(super) what: &'static str,
    pub(super) entry: fn(&Desired, &R) -> E,
}

impl<R: Record<Id = String>, E: DocumentEntry> Named<R, E> {
    /// Makes the record of that name, or with `replace` changes it, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), or what `make` says.
    pub(super) fn put(
        &self,
        app: &App,
        name: &str,
        replace: Option<&Precondition>,
        make: impl Fn(&Desired) -> Result<R, AppError>,
    ) -> Result<R, AppError> {
        app.change(|draft| {
            let found = R::map(&mut draft.desired).get(name).cloned();
            match (found, replace) {
                (Some(found), Some(when)) => when.check(&(self.entry)(&draft.desired, &found))?,
                (None, None) => {}
                (Some(_), None) => return Err(AppError::conflict(format!("{} {name} exists", self.what))),
                (None, Some(_)) => return Err(AppError::not_found(self.what, name)),
            }
            let record = make(&draft.desired)?;
            draft.put(record.clone())?;
            Ok(record)
        })
    }

    /// # Errors
    /// It does not exist, or is not as `when` wants it.
    pub(super) fn delete(&self, app: &App, name: &str, when: &Precondition) -> Result<(), AppError> {
        app.change(|draft| {
            let found = R::map(&mut draft.desired).get(name).cloned();
            let found = found.ok_or_else(|| AppError::not_found(self.what, name))?;
            when.check(&(self.entry)(&draft.desired, &found))?;
            draft.delete::<R>(&name.to_owned());
            Ok(())
        })
    }
}
