//! What the description of the API says of one field of a body: its bounds are written there, and a refusal repeats them.
//!
//! Absent here: whether a value is within them; those who take it check.

use std::sync::LazyLock;

use axum::http::Method;
use serde_json::Value;

use super::openapi;

static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(openapi::description()).unwrap_or_default());

/// The text of the field at `pointer` in the body of the operation, where it has one.
pub(super) fn field(method: &Method, path: &str, pointer: &str) -> Option<&'static str> {
    let operation = DESCRIPTION["paths"].get(path)?.get(method.as_str().to_ascii_lowercase())?;
    let body = operation.pointer("/requestBody/content/application~1json/schema")?;
    let names: Vec<_> = pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
    find(body, &names)?["description"].as_str()
}

/// The schema of what is at `names` in that of `schema`.
fn find(schema: &'static Value, names: &[String]) -> Option<&'static Value> {
    let Some((name, rest)) = names.split_first() else { return Some(schema) };
    if let Some(named) = schema["$ref"].as_str() {
        return find(DESCRIPTION.pointer(named.strip_prefix('#')?)?, names);
    }
    let choices = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|of| schema[of].as_array()).flatten();
    let member = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
    let next = member.or_else(|| schema.get("items").filter(|_| name.parse::<usize>().is_ok()));
    next.and_then(|next| find(next, rest)).or_else(|| choices.into_iter().find_map(|choice| find(choice, names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_pointer_also_in_lists_and_in_what_may_be_null() {
        let said = |method, path, pointer| field(&method, path, pointer).unwrap_or_default();
        assert!(said(Method::POST, "/v2/tenants", "/quota_per_day").contains("0 to 100,000,000,000"));
        assert!(said(Method::PATCH, "/v2/tenants/{name}", "/quota_per_day").contains("0 to 100,000,000,000"));
        assert!(said(Method::PUT, "/v2/state", "/tenants/3/quota_per_day").contains("0 to 100,000,000,000"));
        assert!(said(Method::POST, "/v2/pools", "/members/0/weight").contains(" to "));
        for pointer in ["", "/", "/no such", "/members/x", "/members/0/weight/0"] {
            assert_eq!(said(Method::POST, "/v2/pools", pointer), "", "{pointer}");
        }
        assert_eq!(field(&Method::GET, "/v2/pools", "/members"), None);
        assert_eq!(field(&Method::POST, "/v2/no-such", ""), None);
    }

    /// Numbers of `schema`, and of what it refers to: name and description.
    fn numbers(schema: &Value, depth: usize, found: &mut Vec<(String, String)>) {
        assert!(depth < 32, "it ends");
        if let Some(named) = schema["$ref"].as_str() {
            return numbers(DESCRIPTION.pointer(&named[1..]).expect("a schema"), depth + 1, found);
        }
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            if member["type"].to_string().contains("integer") || member["type"].to_string().contains("number") {
                found.push((name.clone(), member["description"].as_str().unwrap_or_default().to_owned()));
            }
            numbers(member, depth + 1, found);
        }
        for of in ["oneOf", "anyOf", "allOf"] {
            schema[of].as_array().into_iter().flatten().for_each(|choice| numbers(choice, depth + 1, found));
        }
        for of in ["items", "additionalProperties"] {
            if schema[of].is_object() {
                numbers(&schema[of], depth + 1, found);
            }
        }
    }

    #[test]
    fn every_number_in_a_body_says_from_where_to_where_it_goes() {
        let mut found = Vec::new();
        for (path, item) in DESCRIPTION["paths"].as_object().expect("paths") {
            for operation in item.as_object().expect("operations").values() {
                if let Some(body) = operation.pointer("/requestBody/content/application~1json/schema") {
                    let mut here = Vec::new();
                    numbers(body, 0, &mut here);
                    found.extend(here.into_iter().map(|(name, said)| (format!("{path} {name}"), said)));
                }
            }
        }
        assert!(found.len() > 30, "{}", found.len());
        let bounded = |said: &str| {
            let words: Vec<_> = said.split([' ', ',', ';', '.']).collect();
            words.windows(3).any(|three| {
                let is_number = |word: &str| word.starts_with(|digit: char| digit.is_ascii_digit());
                three[1] == "to" && is_number(three[0]) && is_number(three[2])
            })
        };
        let without: Vec<_> = found.iter().filter(|(_, said)| !bounded(said)).collect();
        assert!(without.is_empty(), "{without:#?}");
    }
}
