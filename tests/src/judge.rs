//! What others' verifiers and parsers say of a mail: opendkim and dkimpy on signatures, Python's email package on reports.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::child::try_run;
use crate::clients;
use crate::place::Place;

/// Panics unless both signatures of `mail` verify by dkimpy and by opendkim with `records` (name to text).
pub fn verified(place: &Place, mail: &[u8], records: &Value) {
    let by_dkimpy = dkimpy(place, mail, records);
    let algorithms: Vec<&str> = by_dkimpy.iter().filter_map(|result| result["tags"]["a"].as_str()).collect();
    assert!(
        algorithms.len() == 2 && algorithms.contains(&"rsa-sha256") && algorithms.contains(&"ed25519-sha256"),
        "a signature of each kind: {by_dkimpy:?}"
    );
    assert!(by_dkimpy.iter().all(|result| result["verified"] == true), "dkimpy verifies: {by_dkimpy:?}");
    let by_opendkim = opendkim(place, mail, records);
    for algorithm in algorithms {
        let passes = by_opendkim.split("dkim=").filter(|result| result.starts_with("pass"));
        let passed = passes.filter(|result| result.contains(&format!("header.a={algorithm}"))).count();
        assert_eq!(passed, 1, "opendkim verifies {algorithm}:\n{by_opendkim}");
    }
}

/// Panics if any signature of `mail` verifies by either.
pub fn not_verified(place: &Place, mail: &[u8], records: &Value) {
    let by_dkimpy = dkimpy(place, mail, records);
    assert!(by_dkimpy.len() == 2 && by_dkimpy.iter().all(|result| result["verified"] == false), "{by_dkimpy:?}");
    let by_opendkim = opendkim(place, mail, records);
    assert!(!by_opendkim.contains("dkim=pass"), "{by_opendkim}");
}

/// The results of dkimpy, one a signature, with the signature's tags.
pub fn dkimpy(place: &Place, mail: &[u8], records: &Value) -> Vec<Value> {
    let task = json!({"content": STANDARD.encode(mail), "records": records});
    clients::python(place, "verify_dkim.py", &task).as_array().expect("a list of results").clone()
}

/// What opendkim says of all signatures: an Authentication-Results field and more.
fn opendkim(place: &Place, mail: &[u8], records: &Value) -> String {
    let keys = records.as_object().expect("names and texts").iter();
    let keys: String = keys.map(|(name, text)| format!("{name} {}\n", text.as_str().unwrap_or_default())).collect();
    let (data, settings, file) = (place.join("opendkim.keys"), place.join("opendkim.conf"), place.join("judged.eml"));
    std::fs::write(&data, keys).expect("writable");
    std::fs::write(&settings, format!("TestDNSData file:{}\nMode v\nSyslog no\n", data.display())).expect("writable");
    std::fs::write(&file, mail).expect("writable");
    try_run(Command::new("opendkim").arg("-x").arg(&settings).args(["-vvv", "-t"]).arg(&file)).1
}

/// A delivery report as Python reads it; panics where it finds anything wrong.
pub fn report(place: &Place, mail: &[u8]) -> Value {
    let report = clients::python_on(place, "report.py", mail);
    assert_eq!(report["defects"], json!([]), "{report}");
    assert_eq!(report["type"], "multipart/report", "{report}");
    assert_eq!(report["report_type"], "delivery-status", "{report}");
    assert_eq!(report["status_type"], "message/delivery-status", "{report}");
    report
}
