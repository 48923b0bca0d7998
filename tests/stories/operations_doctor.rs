//! `postrail doctor` on recorded hosts: what is wrong with each is found, with its remedy and the exit status.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use postrail_tests::child::try_run;
use postrail_tests::host;
use postrail_tests::namespace::Namespace;
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::Value;

/// Runs the doctor: exit status and what it printed.
fn doctor(arguments: &[&str]) -> (Option<i32>, String) {
    let (status, text) = try_run(Command::new(binary()).arg("doctor").args(arguments));
    (status.code(), text)
}

/// The report on a recorded host, as JSON.
fn report(tree: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let tree = tree.display().to_string();
    let (status, text) = doctor(&[&["--root", &tree, "--json", "--data", "/srv/postrail"], arguments].concat());
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// The severity of the finding `id` whose subject has `what` in it.
fn severity<'a>(report: &'a Value, id: &str, what: &str) -> &'a str {
    finding(report, id, what)["severity"].as_str().expect("a severity")
}

fn finding<'a>(report: &'a Value, id: &str, what: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings");
    let is_it =
        |finding: &&Value| finding["id"] == id && finding["what"].as_str().is_some_and(|text| text.contains(what));
    findings.iter().find(is_it).unwrap_or_else(|| panic!("{id} {what} in {report:#}"))
}

#[test]
fn a_server_whose_interrupts_are_on_the_wrong_socket() {
    let place = Place::new("doctor-rack");
    let tree = host::unpack(&place, "rack-mlx5");
    let sources = ["--source", "203.0.113.10", "--source", "203.0.113.12"];
    let (status, report) = report(&tree, &sources);
    assert_eq!(status, Some(2), "io_uring is forbidden: {report:#}");
    for (id, what, expected) in [
        ("io_uring.disabled", "", "error"),
        ("io_uring.kernel", "", "advice"),
        ("io_uring.setup", "", "skipped"),
        ("limits.memlock", "", "error"),
        ("limits.nofile", "", "ok"),
        ("cpu.governor", "", "ok"),
        ("memory.thp", "", "advice"),
        ("nic.irq", "ens3f0np0", "warning"),
        ("nic.xps", "ens3f0np0", "ok"),
        ("nic.ring", "ens3f0np0", "ok"),
        ("net.netfilter.nf_conntrack_max", "", "warning"),
        ("net.ipv4.ip_local_port_range", "", "advice"),
        ("disk.file_system", "", "ok"),
        ("disk.sync", "", "skipped"),
        ("source.address", "203.0.113.10", "ok"),
        ("source.address", "203.0.113.12", "error"),
        ("source.ptr", "203.0.113.10", "skipped"),
    ] {
        assert_eq!(severity(&report, id, what), expected, "{id} {what}");
    }
    let irq = finding(&report, "nic.irq", "ens3f0np0");
    assert_eq!(irq["wanted"], "one queue a CPU, of CPU 16-31");
    let writes = irq["remedy"]["writes"].as_array().expect("writes");
    assert_eq!(writes.len(), 32);
    assert_eq!(writes[0]["path"], "proc/irq/120/smp_affinity_list");
    assert_eq!(writes[0]["value"], "16");
    let missing = finding(&report, "source.address", "203.0.113.12");
    assert_eq!(missing["remedy"]["command"], "ip address add 203.0.113.12/32 dev ens3f0np0");
}

#[test]
fn the_layout_of_a_server_begins_on_the_interfaces_socket_and_can_be_pasted() {
    let place = Place::new("doctor-layout");
    let tree = host::unpack(&place, "rack-mlx5").display().to_string();
    let shown = ["--root", &tree, "--shards", "4", "--source", "203.0.113.11", "--layout"];
    let (status, table) = doctor(&shown);
    assert_eq!(status, Some(0), "{table}");
    let row = table.lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>();
    assert_eq!(row, ["0", "16", "1", "ens3f0np0", "0", "120", "0", "203.0.113.11"], "{table}");
    assert!(table.contains("echo 19 > /proc/irq/123/smp_affinity_list"), "{table}");
    let (_, toml) = doctor(&[&shown[..], &["--toml"]].concat());
    let file = place.join("up.toml");
    std::fs::write(&file, &toml).expect("written");
    let (_, report) = report(Path::new(&tree), &["--config", &file.display().to_string()]);
    for (id, expected) in [("shard.cpu", "ok"), ("shard.nic", "ok"), ("shard.irq", "warning"), ("shard.source", "ok")] {
        assert_eq!(severity(&report, id, "shard 0"), expected, "{id}: {toml}");
    }
}

#[test]
fn a_machine_in_the_cloud_that_is_set_up_as_advised() {
    let place = Place::new("doctor-cloud");
    let tree = host::unpack(&place, "cloud-ena");
    let (status, report) = report(&tree, &["--source", "10.0.1.21"]);
    assert_eq!(status, Some(0), "{report:#}");
    for count in ["errors", "warnings", "advice"] {
        assert_eq!(report["summary"][count], 0, "{report:#}");
    }
    assert_eq!(severity(&report, "cpu.governor", ""), "skipped");
    assert_eq!(finding(&report, "nic.irq", "ens5")["found"], "4 queues interrupt CPU 0-3");
    let (_, text) = doctor(&["--root", &tree.display().to_string()]);
    assert!(text.contains("0 errors, 0 warnings, 0 pieces of advice"), "{text}");
    assert!(text.contains("Not asked: ") && text.contains("a ring is set up"), "{text}");
}

#[test]
fn a_machine_that_saves_power() {
    let place = Place::new("doctor-laptop");
    let tree = host::unpack(&place, "laptop");
    let (status, report) = report(&tree, &["--source", "192.168.0.5", "--source", "2001:db8::5"]);
    assert_eq!(status, Some(2), "an address is missing: {report:#}");
    for (id, what, expected) in [
        ("cpu.governor", "", "warning"),
        ("cpu.clock", "", "warning"),
        ("limits.nofile", "", "warning"),
        ("nic.irq", "enp0s31f6", "ok"),
        ("nic.rps", "enp0s31f6", "advice"),
        ("nic.ring", "enp0s31f6", "advice"),
        ("nic.offload", "enp0s31f6", "warning"),
        ("net.core.somaxconn", "", "warning"),
        ("net.ipv4.tcp_timestamps", "", "warning"),
        ("net.ipv4.tcp_congestion_control", "", "advice"),
        ("net.ipv4.tcp_sack", "", "skipped"),
        ("disk.scheduler", "", "advice"),
        ("source.address", "192.168.0.5", "ok"),
        ("source.route", "192.168.0.5", "warning"),
        ("source.address", "2001:db8::5", "error"),
    ] {
        assert_eq!(severity(&report, id, what), expected, "{id} {what}");
    }
    let tree = tree.display().to_string();
    let (_, table) = doctor(&["--root", &tree, "--layout"]);
    let cpus: Vec<&str> = table.lines().skip(1).map_while(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(cpus, ["0", "1", "2", "3", "4", "5", "6", "7"], "cores before their second threads: {table}");
    assert!(table.contains("4 (2nd thread)"), "{table}");
    let (status, text) = doctor(&["--root", &tree]);
    assert_eq!(status, Some(1), "without sources there are only warnings: {text}");
    assert!(text.contains("set by  ethtool -K enp0s31f6 tso on gro on"), "{text}");
}

#[test]
fn the_name_of_a_source_must_lead_back_to_it() {
    let (place, net) = (Place::new("doctor-ptr"), Namespace::new());
    let IpAddr::V4(address) = net.outside else { panic!("an IPv4 address") };
    let [first, second, third, fourth] = address.octets();
    let reverse = format!("{second}.{first}.in-addr.arpa.");
    let pointer = format!("{fourth}.{third} PTR out.sender.test.");
    let names = NameServer::start(&place, &[(&reverse, ""), ("sender.test.", "x A 127.0.0.1")]);
    let (server, data, source) =
        (names.address().to_string(), place.join("data").display().to_string(), address.to_string());
    let judge = || {
        let (_, text) = doctor(&["--json", "--data", &data, "--source", &source, "--resolver", &server]);
        let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(severity(&report, "source.address", &source), "ok", "{report:#}");
        severity(&report, "source.ptr", &source).to_owned()
    };
    assert_eq!(judge(), "error", "it has no name");
    names.replace(&reverse, &pointer);
    wait::until("the name to be seen", || (judge() == "warning").then_some(()));
    names.replace("sender.test.", &format!("out A {address}"));
    wait::until("the name to lead back", || (judge() == "ok").then_some(()));
}

#[test]
fn this_host_is_recorded_and_judged_again_the_same() {
    let place = Place::new("doctor-record");
    let (tree, data) = (place.join("tree").display().to_string(), place.join("data").display().to_string());
    let (_, live) = doctor(&["--json", "--data", &data, "--record", &tree, "--source", "127.0.0.1"]);
    let live: Value = serde_json::from_str(&live).expect("JSON");
    let (_, again) = doctor(&["--json", "--data", &data, "--root", &tree, "--source", "127.0.0.1"]);
    let again: Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!(live["recorded"], false);
    assert_eq!(again["recorded"], true);
    let probes = ["io_uring.setup", "disk.sync"];
    for finding in live["findings"].as_array().expect("findings") {
        let id = finding["id"].as_str().expect("an id");
        if !probes.contains(&id) {
            let same = again["findings"].as_array().expect("findings").iter().any(|other| other == finding);
            assert!(same, "{finding:#} is not in {again:#}");
        }
    }
    let (status, text) = doctor(&["--record", &tree]);
    assert_eq!(status, Some(3), "a folder that exists is not written over: {text}");
}

/// Puts a value of a namespace of its own wrong, and has it set right. What is not of the namespace is read-only there, so
/// that nothing of this host changes.
const FIX: &str = r#"
mount --bind /sys /sys
mount -o remount,bind,ro /sys
if [ -d /proc/irq ]; then mount --bind /proc/irq /proc/irq; mount -o remount,bind,ro /proc/irq; fi
value=/proc/sys/net/ipv4/tcp_fin_timeout
echo 77 >$value
"$0" doctor --data "$1" --fix --dry-run --json >"$1/dry.json"
cat $value >"$1/dry.value"
"$0" doctor --data "$1" --fix --json >"$1/fix.json"
cat $value >"$1/fix.value"
"#;

#[test]
fn a_fix_is_shown_first_and_then_set_and_found_right() {
    let place = Place::new("doctor-fix");
    let own = "/proc/sys/net/ipv4/tcp_fin_timeout";
    let before = std::fs::read_to_string(own).expect("readable");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--net", "sh", "-c", FIX]).arg(binary()).arg(place.path());
    let (_, text) = try_run(&mut command);
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap_or_else(|error| panic!("{error}: {text}"));
    let report =
        |name: &str| serde_json::from_str::<Value>(&read(name)).unwrap_or_else(|error| panic!("{error}: {text}"));
    for (name, dry, value, severity_then) in [("dry", true, "77", "advice"), ("fix", false, "30", "ok")] {
        assert_eq!(read(&format!("{name}.value")).trim(), value, "{text}");
        let report = report(&format!("{name}.json"));
        let fixed = report["fixed"].as_array().expect("what was fixed");
        let is_it = |one: &&Value| one["path"].as_str().is_some_and(|path| own.ends_with(path));
        let fixed = fixed.iter().find(is_it).unwrap_or_else(|| panic!("{report:#}"));
        assert_eq!(
            *fixed,
            serde_json::json!({"path": own[1..], "before": "77", "value": "30", "dry": dry, "error": null})
        );
        assert_eq!(severity(&report, "net.ipv4.tcp_fin_timeout", ""), severity_then);
    }
    assert_eq!(std::fs::read_to_string(own).expect("readable"), before, "the host's own value is as it was");
}

#[test]
fn a_tree_that_is_none_and_a_hostile_one() {
    let place = Place::new("doctor-hostile");
    let (status, text) = doctor(&["--root", &place.join("absent").display().to_string()]);
    assert_eq!(status, Some(3), "{text}");
    let tree = place.join("hostile");
    let junk: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for path in [
        "proc/interrupts",
        "proc/self/limits",
        "proc/self/status",
        "proc/self/mountinfo",
        "proc/meminfo",
        "proc/net/route",
        "proc/net/fib_trie",
        "proc/net/if_inet6",
        "proc/sys/kernel/osrelease",
        "proc/sys/net/core/somaxconn",
        "sys/devices/system/cpu/online",
        "sys/devices/system/node/node18446744073709551615/cpulist",
        "sys/class/net/eth0/device/uevent",
        "sys/class/net/eth0/queues/rx-99999999999/rps_cpus",
        "sys/class/net/eth0/device/msi_irqs/4294967296",
        "ethtool/eth0",
    ] {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, &junk).expect("written");
    }
    std::os::unix::fs::symlink("/", tree.join("sys/class/net/eth1")).expect("linked");
    std::os::unix::fs::symlink("/proc/sys/kernel/hostname", tree.join("proc/sys/kernel/hostname")).expect("linked");
    let (status, report) = report(&tree, &["--source", "192.0.2.1"]);
    assert_eq!(status, Some(2), "the source is missing: {report:#}");
    assert!(report["host"].as_str().is_some_and(|host| host.starts_with("unknown: ")), "no link leads out: {report:#}");
}
