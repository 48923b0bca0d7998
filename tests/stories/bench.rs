//! The bench measures the built server: nothing lost, nothing twice, and the keys that others rely on. Times and rates
//! are left alone: they are the machine's.

use std::path::PathBuf;
use std::process::Command;

use postrail_tests::child::try_run;
use postrail_tests::place::{Place, root, target};
use postrail_tests::postrail::binary;
use serde_json::Value;

/// The release binary of the bench, beside the server's.
fn bench() -> PathBuf {
    let beside = binary().with_file_name("postrail-bench");
    if beside.is_file() { beside } else { target().join("release/postrail-bench") }
}

/// Runs a plan against a server that the bench starts; its exit status and its result.
fn run(place: &Place, plan: &str, options: &[&str]) -> (bool, Value) {
    let json = place.join("result.json");
    let mut command = Command::new(bench());
    command.arg("run").arg(root().join(plan)).arg("--server").arg(binary());
    command.arg("--folder").arg(place.join("")).arg("--json").arg(&json).args(options);
    let (status, text) = try_run(&mut command);
    let result = std::fs::read(&json).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let result = serde_json::from_slice(&result).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    (status.success(), result)
}

fn number(result: &Value, key: &str) -> u64 {
    result[key].as_u64().unwrap_or_else(|| panic!("{key} is a number:\n{result}"))
}

#[test]
fn w10_loses_nothing_and_tells_what_the_contract_says() {
    let place = Place::new("bench-w10");
    let (held, result) = run(&place, "bench/plans/w10.toml", &["--seconds", "20"]);
    assert!(held, "{result}");
    for key in ["plan", "commit", "machine", "rate_per_s", "cpu_us_per_mail", "peak_rss_mb", "bytes_written_per_mail"] {
        assert!(!result[key].is_null(), "{key} is there:\n{result}");
    }
    for latency in ["ack_ms", "delivery_ms"] {
        for rank in ["p50", "p99", "max"] {
            assert!(result[latency][rank].is_number(), "{latency}.{rank} is there:\n{result}");
        }
    }
    assert_eq!((number(&result, "lost"), number(&result, "duplicated")), (0, 0), "{result}");
    assert!(number(&result, "delivered") > 0 && number(&result, "sent") == number(&result, "accepted"), "{result}");
    assert_eq!(number(&result, "accepted"), number(&result, "delivered"), "{result}");
    let left = std::fs::read_dir(place.join("")).expect("the folder is there").flatten();
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with("postrail-bench-")).collect();
    assert!(left.is_empty(), "the server's folder is removed: {left:?}");
}

#[test]
fn a_plan_with_a_mistake_is_refused_with_what_to_do() {
    let place = Place::new("bench-mistake");
    let plan = place.join("plan.toml");
    std::fs::write(&plan, "name = \"x\"\nseconds = 1\n[[load]]\nconections = 3\n").expect("written");
    let (status, text) = try_run(Command::new(bench()).arg("run").arg(&plan));
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("unknown field `conections`") && text.contains("`connections`"), "{text}");
}
