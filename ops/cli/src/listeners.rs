//! `postrail listener`: where hosts take submissions, and what they listen on now.

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::{ListenerCommand, ListenerValue};
use crate::client::{Api, tell_unanswered};
use crate::resources::{Collection, Columns, body};
use crate::table;

const LISTENERS: Columns = &[
    ("NAME", "name"),
    ("PROTOCOL", "protocol"),
    ("ADDRESS", "address"),
    ("HOSTS", "hosts"),
    ("REGION", "region"),
    ("TLS", "tls"),
    ("CERTIFICATE", "certificate"),
    ("NETWORKS", "networks"),
];
pub(crate) const STATUS: Columns = &[
    ("HOST", "host"),
    ("ADDRESS", "address"),
    ("LISTENER", "listener"),
    ("PROTOCOL", "protocol"),
    ("OPEN", "is_open"),
    ("CONNECTIONS", "connections"),
    ("ERROR", "error"),
];

pub(crate) fn run(api: &Api, command: ListenerCommand) -> Result<()> {
    let all = Collection { api, name: "listeners", columns: LISTENERS };
    match command {
        ListenerCommand::Add(listener) => all.add(None, listener_body(&listener, Some(&listener.name))),
        ListenerCommand::Set(listener) => all.set(None, &listener.name, &listener_body(&listener, None)),
        ListenerCommand::List => all.list(None),
        ListenerCommand::Show { name } => all.show(None, &name),
        ListenerCommand::Remove { name } => all.remove(None, &name),
        ListenerCommand::Status => {
            let listening = api.get(&["listening"], &[])?;
            tell_unanswered(&listening);
            Ok(table::print_list(&listening["items"], STATUS, api.wants_json())?)
        }
    }
}

/// `name`: where the path does not have it.
fn listener_body(listener: &ListenerValue, name: Option<&str>) -> Value {
    body([
        ("name", json!(name)),
        ("protocol", json!(listener.protocol)),
        ("address", json!(listener.address)),
        ("hosts", json!(listener.hosts)),
        ("region", json!(listener.region)),
        ("tls", json!(listener.tls)),
        ("minimum_version", json!(listener.minimum_version)),
        ("certificate", json!(listener.certificate)),
        ("networks", json!(listener.networks)),
        ("connections", json!(listener.connections)),
        ("connections_per_client", json!(listener.connections_per_client)),
        ("message_bytes_max", json!(listener.message_bytes_max)),
        ("idle_s", json!(listener.idle)),
    ])
}
