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
    let told = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
    assert!(told("server_version").contains(&told("commit")), "the commit is the server's:\n{result}");
    for key in [
        "plan",
        "commit",
        "bench_commit",
        "machine",
        "rate_per_s",
        "cpu_us_per_mail",
        "peak_rss_mb",
        "bytes_written_per_mail",
    ] {
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

/// A plan that is over soon.
const SMALL: &str = "name = \"small\"\nmails = 400\nwarm_up_seconds = 0.2\n[[load]]\nconnections = 8\n";

#[test]
fn another_server_is_measured_beside_postrail_round_by_round() {
    let place = Place::new("bench-external");
    let (plan, json) = (place.join("small.toml"), place.join("peers.jsonl"));
    std::fs::write(&plan, SMALL).expect("written");
    // The null relay is the least server that there is.
    let relay = format!(
        "exec '{}' limit --relay glommio --listen $BENCH_LISTEN_IP:$BENCH_LISTEN_PORT \
         --forward $BENCH_SINK_IP:$BENCH_SINK_PORT",
        bench().display()
    );
    let mut command = Command::new(bench());
    command.arg("peers").arg(&plan).args(["--only", "postrail", "--rounds", "3", "--external", &relay]);
    command.arg("--server").arg(binary()).arg("--folder").arg(place.join("")).arg("--json").arg(&json);
    let (status, text) = try_run(&mut command);
    assert_eq!(status.code(), Some(0), "{text}");
    let row = text.lines().find(|line| line.trim_start().starts_with("external ") && line.contains("untold"));
    let cells: Vec<_> = row.unwrap_or_else(|| panic!("it has a row:\n{text}")).split_whitespace().collect();
    assert!(text.contains("medians of 3 rounds"), "{text}");
    assert!(cells[2].starts_with('(') && cells[2].contains('-'), "a median has its spread:\n{text}");
    let lines = std::fs::read_to_string(&json).expect("written");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 6, "three rounds of each:\n{text}");
    for line in &lines {
        assert_eq!((number(&line["result"], "delivered"), number(&line["result"], "lost")), (400, 0), "{line}");
        assert!(line["result"]["cpu_us_per_mail"].as_f64().is_some_and(|cpu| cpu > 0.0), "{line}");
    }
}

#[test]
fn a_command_that_does_not_start_is_told_with_what_it_printed() {
    let place = Place::new("bench-external-fails");
    let plan = place.join("small.toml");
    std::fs::write(&plan, SMALL).expect("written");
    let mut command = Command::new(bench());
    command.arg("peers").arg(&plan).args(["--only", "haraka", "--peers"]).arg(place.join("none"));
    command.args(["--external", "echo no such door; exit 3", "--folder"]).arg(place.join(""));
    let (status, text) = try_run(&mut command);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("haraka: not installed"), "{text}");
    let told = text.split_once("external: not measured: ").map(|(_, told)| told).unwrap_or_default();
    assert!(told.starts_with("the command of --external: ") && told.contains("no such door"), "{text}");
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

#[test]
fn a_change_of_a_throttle_or_a_weight_touches_one_chunk_and_reaches_every_data_plane() {
    for change in ["throttle", "weight"] {
        changes_touch_one_chunk(change);
    }
}

fn changes_touch_one_chunk(change: &str) {
    let place = Place::new(&format!("bench-publication-{change}"));
    let json = place.join("publication.json");
    let mut command = Command::new(bench());
    command
        .args([
            "publication",
            "--tenants",
            "100",
            "--data-planes",
            "4",
            "--changes",
            "10",
            "--change",
            change,
            "--server",
        ])
        .arg(binary());
    command.arg("--folder").arg(place.join("")).arg("--json").arg(&json);
    let (status, text) = try_run(&mut command);
    assert!(status.success() && text.contains("one chunk, the manifest and the way to it"), "{text}");
    let figures = std::fs::read(&json).expect("written");
    let figures: Value = serde_json::from_slice(&figures).expect("JSON");
    assert_eq!(figures["change"], change);
    assert_eq!((number(&figures, "domains"), number(&figures["reached_ms"], "samples")), (200, 40), "{figures}");
    assert!(number(&figures, "chunks") > 5 && figures["reached_ms"]["p99"].is_number(), "{figures}");
}
