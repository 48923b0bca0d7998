//! Both HTTP APIs describe themselves, and do what they describe.

use std::net::SocketAddr;
use std::process::Command;

use postrail_tests::child::try_run;
use postrail_tests::clients::{python, python_program};
use postrail_tests::scene::Scene;
use serde_json::Value;

fn description(at: SocketAddr) -> Value {
    let response = reqwest::blocking::get(format!("http://{at}/openapi.json")).expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    response.json().expect("the description is JSON")
}

/// What a schema cannot say is refused with 422 (whose domain it is), 412 and 428 (what the caller has read) or 400 (that a
/// cursor was given), beside what every API may say.
const MEANING: &str = r#"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "413", "422", "428", "429", "5xx"]

[[operations]]
include-method = "GET"
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "400", "401", "403", "404", "422", "429", "5xx"]
"#;

/// Panics with what schemathesis says if it finds a failure.
fn explore(scene: &Scene, at: SocketAddr, options: &[&str]) {
    let mut command = Command::new(python_program("schemathesis"));
    std::fs::write(scene.place.join("schemathesis.toml"), MEANING).expect("writable");
    command.current_dir(scene.place.path()).arg("run").arg(format!("http://{at}/openapi.json"));
    command.args(["--checks", "all", "--max-examples", "20", "--seed", "1", "--no-color"]);
    let (status, text) = try_run(command.args(options));
    assert!(status.success(), "{text}");
}

#[test]
fn both_descriptions_are_valid() {
    let scene = Scene::new("openapi");
    for (at, operations) in [
        (scene.postrail.rest, vec!["post /v2/jobs"]),
        (scene.postrail.api, vec!["get /v2/jobs/{id}", "get /v2/jobs/{id}/recipients", "post /v2/domains"]),
    ] {
        let judged = python(&scene.place, "openapi.py", &description(at));
        assert_eq!(judged["errors"], serde_json::json!([]), "{at}");
        assert!(judged["version"].as_str().is_some_and(|version| version.starts_with("3.1")), "{judged}");
        for operation in operations {
            assert!(judged["operations"].as_array().expect("a list").contains(&operation.into()), "{judged}");
        }
    }
}

#[test]
fn submission_does_what_it_describes() {
    let scene = Scene::new("openapi-submission");
    let credentials = format!("{}:{}", scene.postrail.username, scene.postrail.secret);
    explore(&scene, scene.postrail.rest, &["--auth", &credentials]);
}

#[test]
fn the_control_api_does_what_it_describes() {
    let scene = Scene::new("openapi-control");
    let token = std::fs::read_to_string(scene.postrail.data().join("operator.token")).expect("the token");
    explore(&scene, scene.postrail.api, &["--header", &format!("Authorization: Bearer {}", token.trim())]);
}
