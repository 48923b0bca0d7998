//! A JSON text as a tree that borrows from it: base64 of an attachment is not copied before it is decoded.
//!
//! ```text
//! {"a": ["x", 1]}     Object(5)  String("a")(2)  Array(5)  String("x")(4)  Number(5)
//! ```
//!
//! All values are nodes of one list, a value before what it holds, a name before its value; each node has the place of the
//! first that is behind it and what it holds. So a job of 1,000 recipients is read without an allocation for each object.
//!
//! Depth and number of values are bounded while reading. Keys that occur twice are kept twice: the reader that knows
//! the place reports them.

use std::borrow::Cow;
use std::fmt;
use std::iter;

use postrail_schema::limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::de::Read;

use crate::http::Problem;

/// A whole text.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

#[derive(Debug)]
struct Node<'a> {
    what: What<'a>,
    /// The place behind it and all that it holds.
    next: u32,
}

#[derive(Debug)]
enum What<'a> {
    Null,
    Bool(bool),
    Number,
    String(Cow<'a, str>),
    Array,
    Object,
}

/// Nodes to begin with: a text of this many octets a value is read without growing.
const BYTES_PER_NODE: usize = 8;
const NODES_AT_FIRST_MAX: usize = 16 * 1024;

const _: () = assert!(2 * JSON_VALUES_MAX < u32::MAX as usize, "a place in the list, names counted, has 32 bits");

impl Tree<'_> {
    /// The value that the text is.
    pub(super) fn root(&self) -> Json<'_> {
        Json { nodes: &self.nodes, at: 0 }
    }
}

/// One value of a [`Tree`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'t> {
    nodes: &'t [Node<'t>],
    at: u32,
}

impl<'t> Json<'t> {
    /// What a message calls it.
    pub(super) fn kind(self) -> &'static str {
        match self.what() {
            What::Null => "null",
            What::Bool(_) => "a boolean",
            What::Number => "a number",
            What::String(_) => "a string",
            What::Array => "an array",
            What::Object => "an object",
        }
    }

    pub(super) fn is_null(self) -> bool {
        matches!(self.what(), What::Null)
    }

    pub(super) fn boolean(self) -> Option<bool> {
        if let What::Bool(value) = self.what() { Some(*value) } else { None }
    }

    pub(super) fn text(self) -> Option<&'t str> {
        if let What::String(text) = self.what() { Some(text) } else { None }
    }

    /// The elements of an array.
    pub(super) fn items(self) -> Option<impl Iterator<Item = Self> + Clone> {
        matches!(self.what(), What::Array).then(|| self.inner())
    }

    /// The names and values of an object.
    pub(super) fn members(self) -> Option<impl Iterator<Item = (&'t str, Self)> + Clone> {
        let mut inner = matches!(self.what(), What::Object).then(|| self.inner())?;
        Some(iter::from_fn(move || Some((inner.next()?.text()?, inner.next()?))))
    }

    /// The value at a place of the same tree that [`Self::place`] gave.
    pub(super) fn at(self, place: u32) -> Self {
        Self { at: place, ..self }
    }

    /// Its place in the tree; that of the root alone is 0.
    pub(super) fn place(self) -> u32 {
        self.at
    }

    fn what(self) -> &'t What<'t> {
        &self.nodes[self.at as usize].what
    }

    fn inner(self) -> impl Iterator<Item = Self> + Clone {
        let (mut next, end) = (self.at + 1, self.nodes[self.at as usize].next);
        iter::from_fn(move || {
            let json = (next < end).then(|| self.at(next))?;
            next = self.nodes[next as usize].next;
            Some(json)
        })
    }
}

/// Reads a whole text.
///
/// # Errors
/// 400 with line and column: not JSON, too deep, or too many values.
pub(super) fn parse(body: &[u8]) -> Result<Tree<'_>, Problem> {
    // What is UTF-8 as a whole is not checked again string by string.
    match str::from_utf8(body) {
        Ok(text) => read(Deserializer::from_str(text), body.len()),
        Err(_) => read(Deserializer::from_slice(body), body.len()),
    }
}

fn read<'a, R: Read<'a>>(mut reader: Deserializer<R>, bytes: usize) -> Result<Tree<'a>, Problem> {
    let nodes = Vec::with_capacity((bytes / BYTES_PER_NODE).min(NODES_AT_FIRST_MAX));
    let mut growing = Growing { nodes, values_left: JSON_VALUES_MAX, broken: None };
    let value = Value { growing: &mut growing, depth_left: JSON_DEPTH_MAX }.deserialize(&mut reader);
    match value.and_then(|()| reader.end()) {
        Ok(()) => Ok(Tree { nodes: growing.nodes }),
        Err(error) => {
            let code = growing.broken.unwrap_or("invalid_json");
            Err(Problem::new(400, code, format!("the body is not accepted as JSON: {error}")))
        }
    }
}

/// A tree that is being read.
struct Growing<'a> {
    nodes: Vec<Node<'a>>,
    values_left: usize,
    broken: Option<&'static str>,
}

impl<'a> Growing<'a> {
    /// Adds a node that holds nothing yet.
    fn put(&mut self, what: What<'a>) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Node { what, next: at as u32 + 1 });
        at
    }

    /// The last node belongs to the one at `at`, and no other will.
    fn end(&mut self, at: usize) {
        self.nodes[at].next = self.nodes.len() as u32;
    }
}

/// Reads one value to the end of the tree.
struct Value<'g, 'a> {
    growing: &'g mut Growing<'a>,
    depth_left: usize,
}

impl<'a> Value<'_, 'a> {
    fn inner(&mut self) -> Value<'_, 'a> {
        Value { growing: self.growing, depth_left: self.depth_left }
    }

    fn deepen<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or_else(|| {
            self.growing.broken = Some("json_too_deep");
            E::custom(format_args!("values are nested more than {JSON_DEPTH_MAX} deep"))
        })?;
        Ok(())
    }

    fn put<E>(self, what: What<'a>) -> Result<(), E> {
        self.growing.put(what);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Some(left) = self.growing.values_left.checked_sub(1) else {
            self.growing.broken = Some("json_too_large");
            return Err(D::Error::custom(format_args!("there are more than {JSON_VALUES_MAX} values")));
        };
        self.growing.values_left = left;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.put(What::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.put(What::Bool(value))
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.put(What::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.put(What::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.put(What::Number)
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<(), E> {
        self.put(What::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.put(What::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        self.deepen()?;
        let at = self.growing.put(What::Array);
        while access.next_element_seed(self.inner())?.is_some() {}
        self.growing.end(at);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        self.deepen()?;
        let at = self.growing.put(What::Object);
        while access.next_key_seed(Name(self.growing))?.is_some() {
            access.next_value_seed(self.inner())?;
        }
        self.growing.end(at);
        Ok(())
    }
}

/// Reads a member's name, which is borrowed where it has no escapes.
struct Name<'g, 'a>(&'g mut Growing<'a>);

impl<'de> DeserializeSeed<'de> for Name<'_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<(), E> {
        self.0.put(What::String(Cow::Borrowed(value)));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.put(What::String(Cow::Owned(value.to_owned())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_escapes_is_borrowed() {
        let tree = parse(br#"{"a":["x","y\n",1,-1,1e3,true,null,{}],"b\t":false}"#).unwrap();
        let members: Vec<_> = tree.root().members().unwrap().collect();
        let names: Vec<_> = members.iter().map(|(name, _)| *name).collect();
        assert_eq!((names, members[1].1.boolean()), (vec!["a", "b\t"], Some(false)));
        let items: Vec<_> = members[0].1.items().unwrap().collect();
        assert!(matches!(items[0].what(), What::String(Cow::Borrowed("x"))));
        assert!(matches!(items[1].what(), What::String(Cow::Owned(text)) if text == "y\n"));
        let kinds: Vec<_> = items.iter().map(|item| item.kind()).collect();
        let expected = ["a string", "a string", "a number", "a number", "a number", "a boolean", "null", "an object"];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn what_a_value_holds_ends_where_the_next_begins() {
        let tree = parse(br#"[[],[[1,2],{"a":{"b":[3]},"c":"d"}],"e"]"#).unwrap();
        let outer: Vec<_> = tree.root().items().unwrap().collect();
        assert_eq!((outer.len(), outer[0].items().unwrap().count(), outer[2].text()), (3, 0, Some("e")));
        let inner: Vec<_> = outer[1].items().unwrap().collect();
        assert_eq!((inner.len(), inner[0].items().unwrap().count()), (2, 2));
        let members: Vec<_> = inner[1].members().unwrap().map(|(name, value)| (name, value.kind())).collect();
        assert_eq!(members, [("a", "an object"), ("c", "a string")]);
        assert!(outer[1].members().is_none() && inner[1].items().is_none(), "each is what it is");
    }

    #[test]
    fn what_is_not_json_says_where() {
        for (text, code) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("{\"a\":[1,}", "invalid_json"),
            ("{} {}", "invalid_json"),
            ("\"\u{7f}\n\"", "invalid_json"),
        ] {
            let problem = parse(text.as_bytes()).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, code), "{text}");
            assert!(problem.detail.contains("line") && problem.detail.contains("column"), "{}", problem.detail);
        }
        assert_eq!(parse(b"\"\xff\"").unwrap_err().code, "invalid_json");
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(parse(nested(JSON_DEPTH_MAX + 1).as_bytes()).unwrap_err().code, "json_too_deep");
        assert_eq!(parse("[".repeat(100_000).as_bytes()).unwrap_err().code, "json_too_deep");
        let wide = format!("[{}0]", "0,".repeat(JSON_VALUES_MAX));
        assert_eq!(parse(wide.as_bytes()).unwrap_err().code, "json_too_large");
    }
}
