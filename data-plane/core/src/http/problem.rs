//! Problem documents (RFC 9457): how every error of the HTTP interfaces looks.
//!
//! `code` is the stable name of the error for programs, `detail` the sentence for people. No `type` is given
//! (it is `about:blank`), so the title is the phrase of the status.

use serde::Serialize;

use super::message::{Response, reason};

/// One defect of a request body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldError {
    /// RFC 6901 pointer into the request body; empty for the whole.
    pub pointer: String,
    /// Stable snake_case name.
    pub code: &'static str,
    pub detail: String,
}

/// A problem and the response that tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// 400 to 599.
    pub status: u16,
    /// Stable snake_case name.
    pub code: &'static str,
    pub title: &'static str,
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// Fields of the response, such as `Retry-After` and `WWW-Authenticate`.
    pub headers: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Document<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// The media type of a problem document.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem titled by its status.
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title: reason(status), detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// The same with the defects of the body.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// The same with one more response field.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The document's members.
    pub fn to_json(&self) -> serde_json::Value {
        let document = Document {
            title: self.title,
            status: self.status,
            code: self.code,
            detail: &self.detail,
            errors: &self.errors,
        };
        serde_json::to_value(document).expect("strings and numbers are JSON")
    }

    pub fn to_response(&self) -> Response {
        let mut response = Response::new(self.status, Self::CONTENT_TYPE, self.to_json().to_string());
        response.headers.extend(self.headers.iter().cloned());
        response
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        problem.to_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_itself_and_the_place() {
        let error = FieldError { pointer: "/mail".to_owned(), code: "missing", detail: "mail is needed".to_owned() };
        let problem =
            Problem::new(422, "invalid_job", "1 error").with_errors(vec![error]).with_header("Retry-After", "5");
        let response = problem.to_response();
        assert_eq!(response.status, 422);
        assert!(response.headers.contains(&("Content-Type".to_owned(), "application/problem+json".to_owned())));
        assert!(response.headers.contains(&("Retry-After".to_owned(), "5".to_owned())));
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&response.body).unwrap(),
            serde_json::json!({"title": "Unprocessable Content", "status": 422, "code": "invalid_job", "detail": "1 error",
                "errors": [{"pointer": "/mail", "code": "missing", "detail": "mail is needed"}]})
        );
    }
}
