//! Reading a JSON tree by what it should be, with a pointer for everything that it is not.
//!
//! Nothing is ignored: a key that is not known is an error, and so is one that is empty or occurs twice. Errors are
//! collected up to [`REST_ERRORS_MAX`], so that a caller can mend all of them at once.

use std::fmt;

use postrail_schema::limits::REST_ERRORS_MAX;

use super::json::Json;
use crate::http::{FieldError, Problem};

/// The place of a value: an RFC 6901 pointer, made into text only for an error.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Root,
    Key(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl<'a> Place<'a> {
    pub(super) const fn key(&'a self, name: &'a str) -> Self {
        Self::Key(self, name)
    }

    pub(super) const fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(parent, name) => write!(f, "{parent}/{}", name.replace('~', "~0").replace('/', "~1")),
            Self::Item(parent, index) => write!(f, "{parent}/{index}"),
        }
    }
}

/// The errors found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: Vec<FieldError>,
    /// Found but not kept.
    more: usize,
    /// The body is not of the documented shape (400), rather than of impossible content (422).
    misshapen: bool,
}

impl Findings {
    pub(super) fn add(&mut self, place: &Place<'_>, code: &'static str, detail: impl Into<String>) {
        self.misshapen |= matches!(code, "unknown_key" | "duplicate_key");
        if self.errors.len() < REST_ERRORS_MAX {
            self.errors.push(FieldError { pointer: place.to_string(), code, detail: detail.into() });
        } else {
            self.more += 1;
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The problem that tells them all.
    pub(super) fn into_problem(self) -> Problem {
        let refused = self.errors.iter().all(|error| error.code == DOMAIN_MAY_NOT_SEND);
        if let Some(first) = self.errors.first().filter(|_| refused && !self.misshapen) {
            let detail = first.detail.clone();
            return Problem::new(403, DOMAIN_MAY_NOT_SEND, detail).with_errors(self.errors);
        }
        let (status, code) = if self.misshapen { (400, "invalid_request") } else { (422, "invalid_job") };
        let count = self.errors.len() + self.more;
        let detail = match (count, self.more) {
            (1, _) => "the job is not accepted: 1 error".to_owned(),
            (_, 0) => format!("the job is not accepted: {count} errors"),
            _ => {
                format!("the job is not accepted: {count} errors, of which the first {} are listed", self.errors.len())
            }
        };
        Problem::new(status, code, detail).with_errors(self.errors)
    }
}

/// Keys that are known of one object, at most.
const KEYS_MAX: usize = 12;

/// The members of one object, taken out one by one.
pub(super) struct Members<'j> {
    object: Json<'j>,
    known: &'static [&'static str],
    /// Bit n: the n-th known key is there, be its value of use or not.
    given: u32,
    /// Where the value of the n-th known key is that was not taken yet; 0: there is none.
    places: [u32; KEYS_MAX],
}

impl<'j> Members<'j> {
    /// The members of `json` if it is an object that has only `known` keys; what else there is becomes findings.
    pub(super) fn read(
        json: Json<'j>,
        place: &Place<'_>,
        known: &'static [&'static str],
        findings: &mut Findings,
    ) -> Option<Self> {
        assert!(known.len() <= KEYS_MAX, "each known key has its place");
        let Some(given) = json.members() else {
            findings.add(place, "wrong_type", format!("an object is expected, not {}", json.kind()));
            return None;
        };
        let mut places = [0; KEYS_MAX];
        let mut seen = 0;
        for (name, value) in given {
            let here = place.key(name);
            let Some(at) = known.iter().position(|known| *known == name) else {
                findings.add(&here, "unknown_key", "no such key is known here");
                continue;
            };
            if seen & (1 << at) != 0 {
                findings.add(&here, "duplicate_key", "the key occurs twice");
            } else if is_empty(value) {
                findings.add(&here, "empty_value", "a key that is present must not be empty");
            } else {
                places[at] = value.place();
            }
            seen |= 1 << at;
        }
        Some(Self { object: json, known, given: seen, places })
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Json<'j>> {
        let at = self.known.iter().position(|known| *known == name)?;
        let place = std::mem::take(&mut self.places[at]);
        (place != 0).then(|| self.object.at(place))
    }

    /// Whether the key was given, even if its value became a finding.
    pub(super) fn has(&self, name: &str) -> bool {
        self.known.iter().position(|known| *known == name).is_some_and(|at| self.given & (1 << at) != 0)
    }

    /// A string member.
    pub(super) fn text(&mut self, name: &str, place: &Place<'_>, findings: &mut Findings) -> Option<&'j str> {
        string(self.take(name)?, &place.key(name), findings)
    }

    /// Refuses the members of `names`: what they ask for is not built.
    pub(super) fn refuse(&mut self, names: &[&'static str], place: &Place<'_>, findings: &mut Findings) {
        for name in names {
            if self.take(name).is_some() {
                findings.add(&place.key(name), "not_supported", format!("{name} is not supported"));
            }
        }
    }
}

/// A string, or a finding.
pub(super) fn string<'j>(json: Json<'j>, place: &Place<'_>, findings: &mut Findings) -> Option<&'j str> {
    let text = json.text();
    if text.is_none() {
        findings.add(place, "wrong_type", format!("a string is expected, not {}", json.kind()));
    }
    text
}

/// The elements of an array, or a finding.
pub(super) fn array<'j>(
    json: Json<'j>,
    place: &Place<'_>,
    findings: &mut Findings,
) -> Option<impl Iterator<Item = Json<'j>> + Clone + use<'j>> {
    let items = json.items();
    if items.is_none() {
        findings.add(place, "wrong_type", format!("an array is expected, not {}", json.kind()));
    }
    items
}

/// null, "", [] and white space ask for nothing; {} is an object with all its defaults.
fn is_empty(json: Json<'_>) -> bool {
    json.is_null()
        || json.text().is_some_and(|text| text.trim().is_empty())
        || json.items().is_some_and(|mut items| items.next().is_none())
}

/// The code of a registered domain that DNS does not let send; alone it makes the answer a 403.
pub(super) const DOMAIN_MAY_NOT_SEND: &str = "domain_may_not_send";

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;

    #[test]
    fn pointers_are_escaped() {
        let (root, odd) = (Place::Root, Place::Root);
        let recipients = root.key("recipients");
        assert_eq!(recipients.item(3).to_string(), "/recipients/3");
        assert_eq!(odd.key("a/b~c").to_string(), "/a~1b~0c");
        assert_eq!(root.to_string(), "");
    }

    #[test]
    fn whatever_is_not_understood_is_found() {
        let mut findings = Findings::default();
        let tree = json::parse(br#"{"a":"x","b":"","b":null,"c":1,"a":"y","d":{},"e":[]}"#).unwrap();
        let mut members = Members::read(tree.root(), &Place::Root, &["a", "b", "d", "e"], &mut findings).unwrap();
        assert_eq!(members.text("a", &Place::Root, &mut findings), Some("x"));
        assert!(members.take("a").is_none(), "what was taken is gone");
        assert!(members.has("d"));
        let problem = findings.into_problem();
        let seen: Vec<_> = problem.errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
        let expected = [
            ("/b", "empty_value"),
            ("/b", "duplicate_key"),
            ("/c", "unknown_key"),
            ("/a", "duplicate_key"),
            ("/e", "empty_value"),
        ];
        assert_eq!((problem.status, seen), (400, expected.to_vec()));
    }

    #[test]
    fn errors_are_bounded_and_counted() {
        let mut findings = Findings::default();
        for index in 0..50 {
            findings.add(&Place::Root.item(index), "wrong_type", "x");
        }
        let problem = findings.into_problem();
        assert_eq!((problem.status, problem.errors.len()), (422, REST_ERRORS_MAX));
        assert!(problem.detail.contains("50 errors"), "{}", problem.detail);
    }
}
