//! A JSON text as a tree that borrows from it: base64 of an attachment is not copied before it is decoded.
//!
//! Depth and number of values are bounded while reading. Keys that occur twice are kept twice: the reader that knows
//! the place reports them.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use postrail_schema::limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::http::Problem;

/// One value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number,
    String(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl Json<'_> {
    /// What a message calls it.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Reads a whole text.
///
/// # Errors
/// 400 with line and column: not JSON, too deep, or too many values.
pub(super) fn parse(text: &[u8]) -> Result<Json<'_>, Problem> {
    let bounds = Bounds { values_left: Cell::new(JSON_VALUES_MAX), broken: Cell::new(None) };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Node { bounds: &bounds, depth_left: JSON_DEPTH_MAX }.deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        let code = bounds.broken.get().unwrap_or("invalid_json");
        Problem::new(400, code, format!("the body is not accepted as JSON: {error}"))
    })
}

struct Bounds {
    values_left: Cell<usize>,
    broken: Cell<Option<&'static str>>,
}

#[derive(Clone, Copy)]
struct Node<'b> {
    bounds: &'b Bounds,
    depth_left: usize,
}

impl Node<'_> {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| {
            self.bounds.broken.set(Some("json_too_deep"));
            E::custom(format_args!("values are nested more than {JSON_DEPTH_MAX} deep"))
        })?;
        Ok(Self { depth_left, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Json<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        let Some(left) = self.bounds.values_left.get().checked_sub(1) else {
            self.bounds.broken.set(Some("json_too_large"));
            return Err(D::Error::custom(format_args!("there are more than {JSON_VALUES_MAX} values")));
        };
        self.bounds.values_left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number)
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut members = Vec::new();
        while let Some(name) = access.next_key_seed(Name)? {
            members.push((name, access.next_value_seed(inner)?));
        }
        Ok(Json::Object(members))
    }
}

/// A member's name, borrowed where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_escapes_is_borrowed() {
        let Json::Object(members) = parse(br#"{"a":["x","y\n",1,-1,1e3,true,null,{}]}"#).unwrap() else { panic!() };
        let Json::Array(items) = &members[0].1 else { panic!() };
        assert!(matches!(&items[0], Json::String(Cow::Borrowed("x"))));
        assert!(matches!(&items[1], Json::String(Cow::Owned(text)) if text == "y\n"));
        let kinds: Vec<_> = items.iter().map(Json::kind).collect();
        let expected = ["a string", "a string", "a number", "a number", "a number", "a boolean", "null", "an object"];
        assert_eq!(kinds, expected);
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
