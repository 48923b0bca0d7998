//! Desired state as a whole: planned from a document, applied in one change.
//!
//! Invariants worth naming: a plan writes nothing and makes no keys; what is applied is applied on the state that it was
//! planned on, or not at all; a document that changes nothing makes no revision. Absent here: reading documents from bytes.

mod edit;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use postrail_schema::ids::{KeyId, Revision};
use postrail_schema::limits::STATE_KEYS_MADE_MAX;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm, KeyStage};

use super::keys::{ALGORITHMS, make_keys};
use super::{App, AppError, Draft, Precondition};
use crate::plan::{Change, Desired, Document, Findings, NumbersEntry, difference, entity_tag};
use edit::edit;

/// What a document would change.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// The revision that it was planned on.
    pub revision: Revision,
    /// The entity tag of the state that it was planned on.
    pub tag: String,
    pub changes: Vec<Change>,
    /// Findings about the state that it leads to.
    /// Findings that the change makes.
    pub problems: Vec<Problem>,
    /// How many more there are that were there before it.
    pub problems_before: usize,
}

/// What a document has changed.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub revision: Revision,
    pub tag: String,
    pub changes: Vec<Change>,
}

/// Keys for domains that lack some.
struct Keys {
    made: Vec<DkimKey>,
    /// Whether keys are only counted: then they are empty.
    counts: bool,
    /// How many were asked for of each of [`ALGORITHMS`].
    asked: [usize; 2],
}

impl Keys {
    fn counted() -> Self {
        Self { made: Vec::new(), counts: true, asked: [0; 2] }
    }

    /// A key of that algorithm, without a selector.
    fn take(&mut self, algorithm: KeyAlgorithm, id: KeyId) -> Result<DkimKey, AppError> {
        self.asked[usize::from(algorithm != ALGORITHMS[0])] += 1;
        if self.counts {
            let empty = DkimKey {
                id,
                selector: String::new(),
                algorithm,
                sealed_private_key: Vec::new(),
                public_key: String::new(),
                stage: KeyStage::Signing,
                since_ms: 0,
            };
            return Ok(empty);
        }
        let at = self.made.iter().rposition(|key| key.algorithm == algorithm);
        let at = at.ok_or_else(|| AppError::conflict("the configuration has changed meanwhile; plan again"))?;
        Ok(DkimKey { id, ..self.made.swap_remove(at) })
    }
}

impl App {
    /// The document of the state as it is, and its entity tag.
    pub(crate) fn state(&self, secrets: bool) -> (Document, String) {
        let desired = self.desired();
        let numbers = secrets.then(|| NumbersEntry::of(&desired, self.masters.current.id()));
        (Document { numbers, ..Document::of(&desired, secrets) }, state_tag(&desired))
    }

    /// # Errors
    /// The document has values that cannot be.
    pub(crate) fn plan_state(&self, document: &Document) -> Result<Planned, AppError> {
        let before = self.desired();
        let (mut planned, after, _) = self.planned_on(&before, document)?;
        planned.problems.append(&mut self.removal_problems(&before, &after)?);
        planned.problems.append(&mut self.observed_problems(&after)?);
        let known: HashSet<_> = self.problems().into_iter().chain(self.observed_problems(&before)?).collect();
        let all = planned.problems.len();
        planned.problems.retain(|problem| !known.contains(problem));
        planned.problems_before = all - planned.problems.len();
        Ok(planned)
    }

    /// Findings about `desired` and what is observed of hosts, addresses and keys.
    ///
    /// # Errors
    /// What is observed cannot be read.
    pub(crate) fn observed_problems(&self, desired: &Desired) -> Result<Vec<Problem>, AppError> {
        let observed = [self.problems_of_hosts(desired)?, self.fleet_problems(desired), self.key_problems(desired)?];
        Ok(observed.concat())
    }

    /// Makes desired state what the document says.
    ///
    /// # Errors
    /// The document has values that cannot be, its plan has errors, or the state is not the one of `when`.
    pub(crate) fn apply_state(&self, document: &Document, when: &Precondition) -> Result<Applied, AppError> {
        let (planned, _, asked) = self.planned(document)?;
        self.check_base(&self.desired(), when, document)?;
        let errors: Vec<_> =
            planned.problems.iter().filter(|problem| problem.severity == Severity::Error).cloned().collect();
        if !errors.is_empty() {
            return Err(AppError::Refused { problems: errors });
        }
        let Planned { revision, tag, changes, .. } = planned;
        if changes.is_empty() {
            return Ok(Applied { revision, tag, changes });
        }
        let made = self.make(asked)?;
        self.change(|draft| {
            self.check_base(&draft.desired, when, document)?;
            let before = Document::of(&draft.desired, true);
            let mut keys = Keys { made: made.clone(), counts: false, asked: [0; 2] };
            let desired = draft.desired.clone();
            self.share_after_loss(draft)?;
            edit(draft, document, &mut keys, &self.masters)?;
            let mut problems = self.removal_problems(&desired, &draft.desired)?;
            problems.retain(|problem| problem.severity == Severity::Error);
            if !problems.is_empty() {
                return Err(AppError::Refused { problems });
            }
            let after = Document::of(&draft.desired, true);
            let revision = Revision(draft.desired.head.revision.0 + 1);
            Ok(Applied { revision, tag: entity_tag(&after), changes: difference(&before, &after) })
        })
    }

    fn planned(&self, document: &Document) -> Result<(Planned, Desired, [usize; 2]), AppError> {
        self.planned_on(&self.desired(), document)
    }

    /// The plan, what it leads to, and the keys that are to be made.
    fn planned_on(&self, desired: &Desired, document: &Document) -> Result<(Planned, Desired, [usize; 2]), AppError> {
        let before = Document::of(desired, true);
        let mut draft = Draft::on(desired);
        let mut keys = Keys::counted();
        self.share_after_loss(&mut draft)?;
        edit(&mut draft, document, &mut keys, &self.masters)?;
        let changes = difference(&before, &Document::of(&draft.desired, true));
        let planned = Planned {
            revision: desired.head.revision,
            tag: entity_tag(&before),
            changes,
            problems: Findings::of(&draft.desired).list(),
            problems_before: 0,
        };
        Ok((planned, draft.desired, keys.asked))
    }

    /// Whether `desired` is the state that the caller has seen; if not, it is told what the document would change now.
    fn check_base(&self, desired: &Desired, when: &Precondition, document: &Document) -> Result<(), AppError> {
        if when.holds(|| state_tag(desired)) {
            return Ok(());
        }
        let (planned, ..) = self.planned_on(desired, document)?;
        Err(AppError::Stale { tag: planned.tag, difference: planned.changes })
    }

    /// Makes keys on all CPUs, outside of any lock.
    fn make(&self, asked: [usize; 2]) -> Result<Vec<DkimKey>, AppError> {
        if asked[0] > STATE_KEYS_MADE_MAX {
            let detail = format!(
                "{} RSA keys would have to be made, at most {STATE_KEYS_MADE_MAX} at once: apply in portions, or bring the keys",
                asked[0]
            );
            return Err(AppError::invalid("/domains", detail));
        }
        let wanted: Vec<_> =
            ALGORITHMS.into_iter().zip(asked).flat_map(|(kind, n)| std::iter::repeat_n(kind, n)).collect();
        let desired = self.desired();
        let sealing = self.sealing(&desired)?;
        let (next, made) = (AtomicUsize::new(0), Mutex::new(Ok(Vec::new())));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(algorithm) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let keys = make_keys(sealing, &[*algorithm], |_| (KeyId(0), String::new()));
                        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
                        match (keys, &mut *made) {
                            (Ok(mut keys), Ok(made)) => made.append(&mut keys),
                            (Err(error), made) => *made = Err(error),
                            (Ok(_), Err(_)) => {}
                        }
                    }
                });
            }
        });
        made.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entity tag of the whole state.
fn state_tag(desired: &Desired) -> String {
    entity_tag(&Document::of(desired, true))
}
