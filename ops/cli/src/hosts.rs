//! `postrail host`: the hosts of a fleet, which addresses they have and why, and orders about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::args::HostCommand;
use crate::client::{Api, Refused, tell_unanswered};
use crate::listeners::STATUS;
use crate::table;

const HOSTS: &[(&str, &str)] = &[
    ("NAME", "name"),
    ("STANDING", "standing"),
    ("ADDRESSES", "addresses"),
    ("LEAVING", "leaving"),
    ("WAITING", "waiting"),
    ("REVISION", "revision"),
    ("SAFE TO STOP", "safe_to_stop"),
    ("SHARE", "share"),
    ("REGION", "region"),
    ("NICS", "nics"),
    ("CAPABILITIES", "capabilities"),
];
const HELD: &[(&str, &str)] = &[
    ("ADDRESS", "address"),
    ("SOURCES", "sources"),
    ("TENURE", "tenure"),
    ("STATE", "state"),
    ("NEXT", "next"),
    ("EPOCH", "epoch"),
];

pub(crate) fn run(api: &Api, command: HostCommand) -> Result<()> {
    match command {
        HostCommand::List => list(api),
        HostCommand::Show { name } => {
            let mut host = api.get(&["hosts", &name], &[])?;
            tell_elsewhere([&host]);
            let listening = api.get(&["listening"], &[])?;
            let is_asked = |one: &&Value| one["host"] == *name;
            if let Some(silent) = table::records(&listening["unanswered"]).iter().find(is_asked) {
                tell_unanswered(&json!({ "unanswered": [silent] }));
            }
            host["listening"] =
                table::records(&listening["items"]).iter().filter(|port| port["host"] == *name).cloned().collect();
            print(api, &host)
        }
        HostCommand::Drain { name, wait: None } => {
            let host = order(api, &name, "drain")?;
            warn_if_alone(api, &name)?;
            tell(api, &host, &format!("{name} is being emptied; see `postrail host show {name}`\n"))
        }
        HostCommand::Drain { name, wait: Some(seconds) } => drain(api, &name, Duration::from_secs(seconds)),
        HostCommand::Resume { name } => {
            let host = order(api, &name, "resume")?;
            tell(api, &host, &format!("{name} may have addresses again\n"))
        }
        HostCommand::Forget { name } => {
            let host = order(api, &name, "forget")?;
            tell(api, &host, &format!("{name} is forgotten; its addresses go to other hosts\n"))
        }
    }
}

fn list(api: &Api) -> Result<()> {
    let hosts = api.list(&["hosts"], &[])?;
    if table::records(&hosts).is_empty() && !api.wants_json() {
        table::say("no host leases addresses: this is no fleet, or no data plane of it has been heard yet")?;
        return Ok(());
    }
    table::print_list(&hosts, HOSTS, api.wants_json())?;
    tell_elsewhere(table::records(&hosts));
    Ok(())
}

/// Says on stderr whom to ask for what is not known here of hosts of other regions.
fn tell_elsewhere<'a>(hosts: impl IntoIterator<Item = &'a Value>) {
    let told: BTreeSet<_> = hosts.into_iter().filter_map(elsewhere).collect();
    told.iter().for_each(|words| eprintln!("{words}"));
}

/// Of a host of another region than the control plane's: who knows what waits there.
fn elsewhere(host: &Value) -> Option<String> {
    let region = host["elsewhere"]["region"].as_str()?;
    let whose = if region.is_empty() { "without a region".to_owned() } else { format!("of region {region}") };
    let whom = match host["elsewhere"]["control_plane"].as_str() {
        Some(api) => format!("ask it (--api {api})"),
        None => "none runs".to_owned(),
    };
    Some(format!("what waits at hosts {whose} only a control plane {whose} knows: {whom}"))
}

fn order(api: &Api, name: &str, order: &str) -> Result<Value> {
    api.post(&["hosts", name, order], &[], &json!({}))
}

fn tell(api: &Api, host: &Value, words: &str) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(host)?);
    }
    Ok(io::stdout().lock().write_all(words.as_bytes())?)
}

/// Says on stderr that a host accepts mail though it is drained, where no other would; whether it did.
fn warn_if_alone(api: &Api, name: &str) -> Result<bool> {
    let problems = api.list(&["problems"], &[])?;
    let is_it = |one: &&Value| one["code"] == "region_drained" && one["subject"] == format!("host/{name}");
    let found = table::records(&problems).iter().find(is_it);
    if let Some(problem) = found {
        eprintln!("warning: {name}: {}", table::plain(&problem["detail"]));
    }
    Ok(found.is_some())
}

/// Waits until a host may be stopped; says on stderr what leaves it meanwhile.
fn drain(api: &Api, name: &str, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    if let Some(elsewhere) = elsewhere(&api.get(&["hosts", name], &[])?) {
        bail!("{name} is not emptied: {elsewhere}; or leave out --wait");
    }
    let mut host = order(api, name, "drain")?;
    eprintln!("{name} is being emptied; if you end this command, that goes on (until `postrail host resume {name}`)");
    let is_warned = warn_if_alone(api, name)?;
    let mut told = (Instant::now(), left(&host));
    let mut is_away = false;
    while host["safe_to_stop"] != true {
        let standing = table::plain(&host["standing"]);
        if matches!(standing.as_str(), "stopped" | "gone" | "forgotten") {
            bail!("{name} does not run ({standing}): what waits in its spool stays there until it is started again");
        }
        if Instant::now() > until {
            let left = left(&host).join("\n  ");
            if !is_warned {
                warn_if_alone(api, name)?;
            }
            bail!("{name} is not empty after {} s, and goes on being emptied:\n  {left}", patience.as_secs());
        }
        std::thread::sleep(LOOK);
        let before = addresses(&host);
        host = match api.get(&["hosts", name], &[]) {
            Ok(host) => host,
            // A control plane is started again, or etcd has another leader: the host is emptied all the same.
            Err(error) if !error.is::<Refused>() && Instant::now() < until => {
                if !std::mem::replace(&mut is_away, true) {
                    eprintln!("{error:#}; {name} goes on being emptied, and is looked at again");
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        is_away = false;
        let now = addresses(&host);
        before.keys().filter(|address| !now.contains_key(*address)).for_each(|gone| eprintln!("{gone} has left"));
        let left = left(&host);
        if told.0.elapsed() > WORD_PERIOD && told.1 != left {
            left.iter().for_each(|left| eprintln!("{left}"));
            told = (Instant::now(), left);
        }
    }
    tell(
        api,
        &host,
        &format!("{name} has no addresses, nothing waits there, and the ledger has all: it is safe to stop\n"),
    )
}

/// What keeps a host from being stopped, in lines.
fn left(host: &Value) -> Vec<String> {
    let addresses = addresses(host).into_iter().map(|(address, because)| format!("{address} is there: {because}"));
    let mut left: Vec<_> = addresses.collect();
    match (host["waiting"].as_u64(), host["journal_unread_bytes"].as_u64()) {
        (Some(waiting), Some(unread)) => {
            if waiting > 0 {
                left.push(format!("recipients that wait there: {waiting}"));
            }
            if host["takes_mail"] == true {
                left.push("it still accepts mail".to_owned());
            }
            if let Some(open @ 1..) = host["submissions"].as_u64() {
                left.push(format!("submissions that are open there: {open}"));
            }
            if unread > 0 {
                left.push(format!("octets of its events that the ledger does not have yet: {unread}"));
            }
        }
        _ => left.push("what waits there is not known: it does not answer, or still reads its spool".to_owned()),
    }
    left
}

/// The addresses of a host, each with why it is there.
fn addresses(host: &Value) -> BTreeMap<String, String> {
    let held = host["held"].as_array().map(Vec::as_slice).unwrap_or_default();
    held.iter().map(|one| (table::plain(&one["address"]), table::plain(&one["because"]))).collect()
}

/// A host, its addresses, and why each is there.
fn print(api: &Api, host: &Value) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(host)?);
    }
    io::stdout().lock().write_all(facts(host).as_bytes())?;
    if host["listening"].as_array().is_some_and(|ports| !ports.is_empty()) {
        table::say("\nlistens on:")?;
        table::print_list(&host["listening"], &STATUS[1..], false)?;
    }
    let held = host["held"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !held.is_empty() {
        table::say("")?;
        table::print_list(&host["held"], HELD, false)?;
        table::say("\nwhy:")?;
        for one in held {
            table::say(format_args!("  {}  {}", table::plain(&one["address"]), table::plain(&one["because"])))?;
        }
    }
    Ok(())
}

/// What a host is about, in lines.
fn facts(host: &Value) -> String {
    let text = |key: &str| match table::plain(&host[key]) {
        empty if empty.is_empty() => "-".to_owned(),
        text => text,
    };
    let order = if host["order"].is_null() { String::new() } else { format!(", by order: {}", text("order")) };
    let mut lines = format!("{}: {}{order}\n", text("name"), text("standing"));
    let puts = if host["routed"] == true { "the network brings them".to_owned() } else { text("nics") };
    let lease = host["lease_ms"].as_u64().unwrap_or_default() / 1_000;
    let safe = if host["safe_to_stop"] == true { ", safe to stop" } else { "" };
    for (name, value) in [
        ("addresses", text("addresses")),
        ("waiting", format!("{}{safe}", text("waiting"))),
        ("revision", text("revision")),
        ("put on", puts),
        ("shards", text("share")),
        ("capabilities", text("capabilities")),
        ("region", text("region")),
        ("lease", format!("{lease} s")),
        ("admin", text("admin")),
    ] {
        let _ = writeln!(lines, "  {name:<12}  {value}");
    }
    lines
}

/// How often it is looked whether addresses have left, and how long nothing is said.
const LOOK: Duration = Duration::from_millis(250);
const WORD_PERIOD: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_in_lines() {
        let host = json!({
            "name": "mx1", "standing": "draining", "order": "drain", "addresses": 1, "leaving": 1, "region": null,
            "waiting": 12, "revision": 41, "safe_to_stop": false, "share": 4, "nics": ["eth0", "eth1"], "routed": false, "capabilities": [], "lease_ms": 10_000, "admin": null,
            "held": [{"address": "192.0.2.1", "because": "it is asked back for mx2"}],
        });
        let expected = "\
mx1: draining, by order: drain
  addresses     1
  waiting       12
  revision      41
  put on        eth0 eth1
  shards        4
  capabilities  -
  region        -
  lease         10 s
  admin         -
";
        assert_eq!(facts(&host), expected);
        assert_eq!(addresses(&host)["192.0.2.1"], "it is asked back for mx2");
    }

    #[test]
    fn whom_to_ask_of_a_host_of_another_region_is_told() {
        let words = |of: Value| elsewhere(&json!({ "elsewhere": of }));
        assert_eq!(words(Value::Null), None);
        let eu = words(json!({ "region": "eu", "control_plane": "https://10.1.0.1:8081" }));
        let expected = "what waits at hosts of region eu only a control plane of region eu knows: ask it (--api https://10.1.0.1:8081)";
        assert_eq!(eu.as_deref(), Some(expected));
        let none = words(json!({ "region": "", "control_plane": null })).expect("it is elsewhere");
        assert!(none.ends_with("a control plane without a region knows: none runs"), "{none}");
    }

    #[test]
    fn what_keeps_a_host_from_being_stopped_is_told_line_by_line() {
        let left = |waiting: Option<u64>, unread: Option<u64>, held: Value| {
            left(&json!({"waiting": waiting, "journal_unread_bytes": unread, "held": held})).join("; ")
        };
        let held = json!([{"address": "192.0.2.1", "because": "it is fixed to this host"}]);
        assert_eq!(left(Some(0), Some(0), json!([])), "");
        assert_eq!(left(Some(0), Some(0), held), "192.0.2.1 is there: it is fixed to this host");
        let open = json!({"waiting": 0, "journal_unread_bytes": 0, "held": [], "takes_mail": true, "submissions": 2});
        assert_eq!(super::left(&open).join("; "), "it still accepts mail; submissions that are open there: 2");
        let both = "recipients that wait there: 7; octets of its events that the ledger does not have yet: 900";
        assert_eq!(left(Some(7), Some(900), json!([])), both);
        assert!(left(None, None, json!([])).starts_with("what waits there is not known"));
    }
}
