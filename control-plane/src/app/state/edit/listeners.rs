//! Listeners of a document.

use postrail_schema::limits::LISTENERS_MAX;
use postrail_schema::listener::Listener;

use super::{AppError, Editor, Wanted};
use crate::app::listeners::listener;
use crate::plan::ListenerEntry;

impl Editor<'_> {
    pub(super) fn listeners(&mut self, entries: &[ListenerEntry]) -> Result<(), AppError> {
        let mut wanted = Wanted::<Listener>::new();
        for (at, entry) in entries.iter().enumerate() {
            let found = listener(entry, |name| self.draft.desired.region(name).map(|region| region.id));
            let Some(listener) = self.in_place::<Listener, _>(at, found) else { continue };
            let pointer = wanted.place(at, "name");
            if self.once(&mut wanted, pointer, listener.name.clone()) {
                wanted.want(listener);
            }
        }
        if wanted.records.len() > LISTENERS_MAX {
            self.fault("/listeners".to_owned(), format!("there are at most {LISTENERS_MAX} listeners"));
        }
        self.settle(wanted)
    }
}
