//! The HTTP client of the commands: the operator's token, JSON both ways, and problems (RFC 9457) told plainly.
//!
//! The control API is reached by plain HTTP on loopback or through a tunnel, and by TLS in a fleet.

use std::fmt::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use postrail_control_plane::tls_reason;
use reqwest::blocking::{Client, ClientBuilder, RequestBuilder, Response};
use reqwest::header::IF_MATCH;
use reqwest::{Certificate, Method, Url};
use serde_json::Value;

use crate::args::ApiOptions;
use crate::state::lines;

/// Longest time that the API may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The same for documents of the whole state.
const TIMEOUT_LARGE: Duration = Duration::from_secs(600);
/// What to do where nothing answers.
const ADVICE: &str = "is it running? Start it with: postrail up";
/// File of the operator's token, in the data folder.
pub(crate) const TOKEN_FILE: &str = "operator.token";
/// File with who signs the certificates of a fleet's hosts, in the data folder of each.
pub(crate) const AUTHORITIES_FILE: &str = "fleet-ca.pem";
/// Records of a page, and pages of a list.
const PAGE_RECORDS: &str = "1000";
const PAGES_MAX: usize = 2_000;
/// Errors of one problem that are printed.
const PRINTED_ERRORS_MAX: usize = 20;

/// The control API, with a token.
pub(crate) struct Api {
    client: Client,
    base: Url,
    token: String,
    json: bool,
}

impl Api {
    /// Reads the token; nothing is asked yet.
    ///
    /// # Errors
    /// A URL that is none, or a token file that cannot be read.
    pub(crate) fn open(options: &ApiOptions, data: &Path) -> Result<Self> {
        let base: Url = options.api.parse().with_context(|| format!("--api {} is no URL", options.api))?;
        let client = match base.scheme() {
            "http" => client()?,
            "https" => trusting(options.api_ca.as_deref(), &data.join(AUTHORITIES_FILE))?,
            _ => bail!("--api {}: the control API is at an http:// or https:// URL", options.api),
        };
        let file = options.token_file.clone().unwrap_or_else(|| data.join(TOKEN_FILE));
        let token = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "cannot read the operator's token from {}: name its file by --token-file, or the data folder by --data",
                file.display()
            )
        })?;
        Ok(Self { client, base, token: token.trim().to_owned(), json: options.json })
    }

    /// Whether results are to be printed as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        self.json
    }

    pub(crate) fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        self.call(Method::GET, path, query, None)
    }

    /// All records of a list, page by page.
    pub(crate) fn list(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = query.to_vec();
            query.push(("limit", PAGE_RECORDS));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &query)?;
            if let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) {
                all.append(items);
            }
            cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                tell_unanswered(&page);
                return Ok(Value::Array(all));
            }
        }
        bail!("there are more than {} records: use the API's pages", all.len())
    }

    pub(crate) fn patch(&self, path: &[&str], query: &[(&str, &str)], body: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, query, Some(body))
    }

    pub(crate) fn put(&self, path: &[&str], query: &[(&str, &str)], body: &Value) -> Result<Value> {
        self.call(Method::PUT, path, query, Some(body))
    }

    pub(crate) fn post(&self, path: &[&str], query: &[(&str, &str)], body: &Value) -> Result<Value> {
        self.call(Method::POST, path, query, Some(body))
    }

    /// As [`Self::post`], for what is large and takes its time.
    pub(crate) fn post_large(&self, path: &[&str], body: &Value) -> Result<Value> {
        let request =
            self.client.post(url(&self.base, path)?).timeout(TIMEOUT_LARGE).bearer_auth(&self.token).json(body);
        answer(request, ADVICE)
    }

    /// Replaces what has the entity tag `tag`.
    pub(crate) fn put_large(&self, path: &[&str], tag: &str, body: &Value) -> Result<Value> {
        let request = self.client.put(url(&self.base, path)?).timeout(TIMEOUT_LARGE).bearer_auth(&self.token);
        answer(request.header(IF_MATCH, tag).json(body), ADVICE)
    }

    pub(crate) fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        self.call(Method::DELETE, path, query, None)
    }

    fn call(&self, method: Method, path: &[&str], query: &[(&str, &str)], body: Option<&Value>) -> Result<Value> {
        let mut request = self.client.request(method, url(&self.base, path)?).query(query).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        answer(request, ADVICE)
    }
}

/// Says on stderr which hosts an answer is without; what it is about is on stdout.
pub(crate) fn tell_unanswered(answer: &Value) {
    unanswered(answer).iter().for_each(|line| eprintln!("{line}"));
}

fn unanswered(answer: &Value) -> Vec<String> {
    let left_out = |one: &Value| {
        let [host, reason] = ["host", "reason"].map(|field| one[field].as_str().unwrap_or_default());
        format!("warning: {host} is left out: {reason}")
    };
    answer["unanswered"].as_array().into_iter().flatten().map(left_out).collect()
}

/// A client of plain HTTP with our limits of time.
pub(crate) fn client() -> Result<Client> {
    limited().tls_certs_only([]).build().context("cannot make an HTTP client")
}

/// A client that knows servers by who signed their certificates: as told, else those of the fleet that this host is of,
/// else the system's.
fn trusting(told: Option<&Path>, fleet: &Path) -> Result<Client> {
    let file = told.or_else(|| fleet.exists().then_some(fleet));
    let Some(file) = file else { return limited().build().context("cannot make an HTTP client") };
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        bail!("{} has no certificate, or a malformed one", file.display());
    }
    limited().tls_certs_only(certificates).build().context("cannot make an HTTP client")
}

fn limited() -> ClientBuilder {
    Client::builder().timeout(TIMEOUT).no_proxy()
}

/// `base` with `/v2` and the segments of `path`, each encoded.
///
/// # Errors
/// A segment that is no name but a step in a path, or nothing: the answer would be about something else.
fn url(base: &Url, path: &[&str]) -> Result<Url> {
    if let Some(step) = path.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
        bail!("`{step}` is no name");
    }
    let mut url = base.clone();
    url.path_segments_mut().map_err(|()| anyhow!("{base} cannot have a path"))?.pop_if_empty().push("v2").extend(path);
    Ok(url)
}

/// Sends `request`; the JSON of the answer (`null` where it has no body).
///
/// # Errors
/// No connection (with `advice`), or the problem that the server told.
pub(crate) fn answer(request: RequestBuilder, advice: &str) -> Result<Value> {
    let response = request.send().map_err(|error| {
        let scheme = error.url().map(Url::scheme).unwrap_or_default().to_owned();
        let place = error.url().map_or_else(String::new, |url| format!(" {}", url.origin().ascii_serialization()));
        if let Some(reason) = tls_reason(&error) {
            return anyhow!("the server at{place} is not the one that is trusted ({reason}): name the file with who signed its certificate by --api-ca, or the data folder of a host of the fleet by --data");
        }
        match (error.is_connect(), error.is_timeout()) {
            (true, _) => anyhow!("nothing answers at{place}: {advice}"),
            (_, true) => anyhow!("no answer from{place} within {} seconds", TIMEOUT.as_secs()),
            _ if scheme == "http" => anyhow!(error.without_url())
                .context(format!("the request to{place} failed (in a fleet the control API is at https:// beyond loopback)")),
            _ => anyhow!(error.without_url()).context(format!("the request to{place} failed")),
        }
    })?;
    let status = response.status();
    let body = text(response)?;
    let value = if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap_or(Value::String(body)) };
    match problem(status.as_u16(), &value) {
        _ if status.is_success() => Ok(value),
        problem if status.is_client_error() => Err(anyhow!(Refused(problem))),
        problem => Err(anyhow!(problem)),
    }
}

/// What was asked for is wrong: the same again would be, too.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

fn text(response: Response) -> Result<String> {
    response.text().context("the answer broke off")
}

/// A problem as sentences: what is wrong, then each place with its reason.
fn problem(status: u16, body: &Value) -> String {
    let said = |key: &str| body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut message = match (said("detail"), said("title")) {
        (Some(detail), _) => detail.to_owned(),
        (None, Some(title)) => title.to_owned(),
        (None, None) => format!("the server answered {status}"),
    };
    // A scope or role that is missing says so itself.
    if status == 401 || said("code") == Some("forbidden") {
        message.push_str(" (is the token or the secret the right one?)");
    }
    let errors = body.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for error in errors.iter().take(PRINTED_ERRORS_MAX) {
        let part = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        // About the request as a whole, it is said already.
        if part("pointer").is_empty() && said("detail") == Some(part("detail")) {
            continue;
        }
        let place = if part("pointer").is_empty() { part("subject") } else { part("pointer") };
        let _ =
            write!(message, "\n  {place}: {}", if part("detail").is_empty() { part("code") } else { part("detail") });
    }
    if errors.len() > PRINTED_ERRORS_MAX {
        let _ = write!(message, "\n  and {} more", errors.len() - PRINTED_ERRORS_MAX);
    }
    if let Some(difference) = body.get("difference") {
        let _ = write!(message, "\n{}", lines(difference).trim_end());
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_its_detail_and_each_pointer_with_its_reason() {
        let body = json!({"title": "Unprocessable", "detail": "two values are not right",
            "errors": [{"pointer": "/name", "code": "taken", "detail": "another tenant has it"}, {"pointer": "/weight", "code": "too_small"}]});
        assert_eq!(
            problem(422, &body),
            "two values are not right\n  /name: another tenant has it\n  /weight: too_small"
        );
    }

    #[test]
    fn what_is_about_the_whole_request_is_said_once() {
        let body = json!({"detail": "name at most one", "errors": [{"pointer": "", "code": "invalid", "detail": "name at most one"}]});
        assert_eq!(problem(422, &body), "name at most one");
    }

    #[test]
    fn an_answer_that_is_no_problem_still_has_its_status() {
        assert_eq!(problem(502, &Value::Null), "the server answered 502");
        let missing = json!({"detail": "this needs the role admin; yours is viewer", "code": "role_missing"});
        assert_eq!(problem(403, &missing), "this needs the role admin; yours is viewer");
        assert!(problem(401, &json!({"title": "Unauthorized"})).starts_with("Unauthorized (is the token"));
    }

    #[test]
    fn hosts_that_an_answer_is_without_are_told_with_why() {
        let answer = json!({"recipients": 2, "unanswered": [{"host": "mta-2", "reason": "no connection"}]});
        assert_eq!(unanswered(&answer), ["warning: mta-2 is left out: no connection"]);
        assert!(unanswered(&json!({"items": []})).is_empty());
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        let base: Url = "http://127.0.0.1:8081".parse().expect("a URL");
        let url = url(&base, &["suppressions", "a/b?c@x.test"]).expect("a path");
        assert_eq!(url.as_str(), "http://127.0.0.1:8081/v2/suppressions/a%2Fb%3Fc@x.test");
        for step in [".", "..", ""] {
            let refused = super::url(&base, &["credentials", step, "rotate"]).expect_err("it names nothing");
            assert_eq!(refused.to_string(), format!("`{step}` is no name"));
        }
    }
}
