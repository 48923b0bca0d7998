//! `postrail host`: the hosts of a fleet, which addresses they have and why, and orders about them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::args::HostCommand;
use crate::client::Api;
use crate::listeners::STATUS;
use crate::table;

const HOSTS: &[(&str, &str)] = &[
    ("NAME", "name"),
    ("STANDING", "standing"),
    ("ADDRESSES", "addresses"),
    ("LEAVING", "leaving"),
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
            let listening = api.list(&["listening"], &[])?;
            host["listening"] =
                listening.as_array().into_iter().flatten().filter(|port| port["host"] == *name).cloned().collect();
            print(api, &host)
        }
        HostCommand::Drain { name, wait: None } => {
            let host = order(api, &name, "drain")?;
            tell(api, &host, &format!("{name} is asked for its addresses; see `postrail host show {name}`\n"))
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
        println!("no host leases addresses: this is no fleet, or no data plane of it has been heard yet");
        return Ok(());
    }
    Ok(table::print_list(&hosts, HOSTS, api.wants_json())?)
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

/// Waits until a host has no address any more, and says of each where it went.
fn drain(api: &Api, name: &str, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    let mut host = order(api, name, "drain")?;
    let mut left = addresses(&host);
    let mut quiet_until = Instant::now() + WORD_PERIOD;
    while !left.is_empty() && Instant::now() < until {
        std::thread::sleep(LOOK);
        host = api.get(&["hosts", name], &[])?;
        let now = addresses(&host);
        let gone: Vec<_> = left.keys().filter(|address| !now.contains_key(*address)).cloned().collect();
        if !api.wants_json() {
            gone.iter().for_each(|address| println!("{address} has left"));
            if gone.is_empty() && Instant::now() > quiet_until {
                println!("{} left to move", count(now.len()));
            }
        }
        if !gone.is_empty() || Instant::now() > quiet_until {
            quiet_until = Instant::now() + WORD_PERIOD;
        }
        left = now;
    }
    if !left.is_empty() {
        let named = left.iter().map(|(address, because)| format!("\n  {address}: {because}"));
        bail!("{name} still has {} after {} s:{}", count(left.len()), patience.as_secs(), named.collect::<String>());
    }
    let waiting = waiting(&api.get(&["queue"], &[])?, name);
    let kept = match waiting {
        0 => "nothing waits in its spool: it may be stopped".to_owned(),
        some => format!("{some} recipients wait in its spool, and go on when it has addresses again"),
    };
    tell(api, &host, &format!("{name} has no addresses any more; {kept}\n"))
}

fn count(addresses: usize) -> String {
    if addresses == 1 { "1 address".to_owned() } else { format!("{addresses} addresses") }
}

/// The addresses of a host, each with why it is there.
fn addresses(host: &Value) -> BTreeMap<String, String> {
    let held = host["held"].as_array().map(Vec::as_slice).unwrap_or_default();
    held.iter().map(|one| (table::plain(&one["address"]), table::plain(&one["because"]))).collect()
}

/// Recipients that wait at a host, as the queue tells; of a queue of one host no shard names it.
fn waiting(queue: &Value, name: &str) -> u64 {
    let shards = table::records(queue).iter();
    let theirs = shards.filter(|shard| shard.get("host").is_none_or(|host| host == name));
    theirs.filter_map(|shard| shard["waiting"].as_u64()).sum()
}

/// A host, its addresses, and why each is there.
fn print(api: &Api, host: &Value) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(host)?);
    }
    io::stdout().lock().write_all(facts(host).as_bytes())?;
    if host["listening"].as_array().is_some_and(|ports| !ports.is_empty()) {
        println!("\nlistens on:");
        table::print_list(&host["listening"], &STATUS[1..], false)?;
    }
    let held = host["held"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !held.is_empty() {
        println!();
        table::print_list(&host["held"], HELD, false)?;
        println!("\nwhy:");
        for one in held {
            println!("  {}  {}", table::plain(&one["address"]), table::plain(&one["because"]));
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
    for (name, value) in [
        ("addresses", text("addresses")),
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
            "share": 4, "nics": ["eth0", "eth1"], "routed": false, "capabilities": [], "lease_ms": 10_000, "admin": null,
            "held": [{"address": "192.0.2.1", "because": "it is asked back for mx2"}],
        });
        let expected = "\
mx1: draining, by order: drain
  addresses     1
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
    fn what_waits_is_counted_at_the_host_that_is_named() {
        let of_two = json!({"shards": [{"host": "mx1", "waiting": 2}, {"host": "mx2", "waiting": 5}, {"host": "mx1", "waiting": 1}]});
        assert_eq!(waiting(&of_two, "mx1"), 3);
        assert_eq!(waiting(&json!({"shards": [{"waiting": 4}]}), "mx1"), 4);
    }
}
