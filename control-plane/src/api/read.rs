//! JSON of a request's body as a type: unknown fields are refused by the types, arrays for objects by `strict`, and every
//! refusal tells where, and of a number, what the description says of it.

use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::problem::ProblemDocument;
use super::strict::Strict;
use super::words::Told;

/// `described`: what is said of the field at a pointer.
///
/// # Errors
/// 400: it is no JSON; 422 with a pointer: it is not what is wanted.
pub(super) fn json<T: DeserializeOwned>(
    bytes: &[u8],
    described: impl Fn(&str) -> Option<&'static str>,
) -> Result<T, ProblemDocument> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Strict(&mut reader)).map_err(|error| refused(&error, described))?;
    reader.end().map_err(|_| {
        let detail = "something follows the JSON value".to_owned();
        ProblemDocument::field(StatusCode::BAD_REQUEST, "not_json", String::new(), detail)
    })?;
    Ok(value)
}

fn refused(
    error: &serde_path_to_error::Error<serde_json::Error>,
    described: impl Fn(&str) -> Option<&'static str>,
) -> ProblemDocument {
    use serde_path_to_error::Segment;

    let mut pointer = String::new();
    for segment in error.path() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if !error.inner().is_data() {
        let detail = format!("the body is no JSON: {}", error.inner());
        return ProblemDocument::field(StatusCode::BAD_REQUEST, "not_json", pointer, detail);
    }
    let mut told = Told::of(&error.inner().to_string());
    if let Some(described) = described(&pointer).filter(|_| told.is_number) {
        told.detail = format!("{}: {described}", told.detail);
    }
    if let Some(field) = &told.missing {
        push(&mut pointer, field);
    }
    ProblemDocument::field(StatusCode::UNPROCESSABLE_ENTITY, told.code, pointer, told.detail)
}

fn push(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}
