//! A real name server (Knot) with the story's zones, on a loopback port of its own.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{Running, run};
use crate::place::{Place, free_address};
use crate::wait;

/// A running Knot.
pub struct NameServer {
    address: SocketAddr,
    folder: PathBuf,
    _process: Running,
}

impl NameServer {
    /// Serves `zones`: pairs of an origin (`example.test.`) and its records, one a line, without SOA and NS.
    pub fn start(place: &Place, zones: &[(&str, &str)]) -> Self {
        Self::start_at(place, free_address(), zones)
    }

    /// As [`Self::start`], at this address.
    pub fn start_at(place: &Place, address: SocketAddr, zones: &[(&str, &str)]) -> Self {
        let folder = place.join("knot");
        for sub in ["run", "zones", "db"] {
            std::fs::create_dir_all(folder.join(sub)).expect("a folder can be made");
        }
        for (origin, records) in zones {
            write_zone(&folder, origin, records);
        }
        std::fs::write(folder.join("knot.conf"), configuration(&folder, address, zones)).expect("writable");
        let mut command = Command::new("/usr/sbin/knotd");
        command.arg("-c").arg(folder.join("knot.conf"));
        let process = Running::start(&mut command, &folder.join("log"));
        let server = Self { address, folder, _process: process };
        let origin = zones.first().map_or(".", |(origin, _)| origin);
        wait::until("the name server to answer", || {
            let (status, text) = crate::child::try_run(
                Command::new("kdig")
                    .args([&format!("@{}", address.ip()), "-p", &address.port().to_string()])
                    .args(["+short", "+time=1", "+retry=0", origin, "SOA"]),
            );
            (status.success() && text.contains("hostmaster")).then_some(())
        });
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces a zone's records and waits until they are served.
    pub fn replace(&self, origin: &str, records: &str) {
        write_zone(&self.folder, origin, records);
        run(Command::new("knotc").arg("-c").arg(self.folder.join("knot.conf")).args(["-b", "zone-reload", origin]));
    }
}

fn write_zone(folder: &Path, origin: &str, records: &str) {
    let serial = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = format!(
        "$ORIGIN {origin}\n$TTL 60\n@ SOA ns.{origin} hostmaster.{origin} {serial} 3600 600 86400 5\n@ NS ns.{origin}\n\
         ns A 127.0.0.1\n{records}\n"
    );
    std::fs::write(folder.join("zones").join(format!("{origin}zone")), text).expect("writable");
}

fn configuration(folder: &Path, address: SocketAddr, zones: &[(&str, &str)]) -> String {
    let at = folder.display();
    let mut text = format!(
        "server:\n    rundir: \"{at}/run\"\n    listen: {}@{}\n    background-workers: 1\n    udp-workers: 1\n    \
         tcp-workers: 1\nlog:\n  - target: stderr\n    any: info\ndatabase:\n    storage: \"{at}/db\"\n\
         template:\n  - id: default\n    storage: \"{at}/zones\"\n    file: \"%s.zone\"\nzone:\n",
        address.ip(),
        address.port()
    );
    for (origin, _) in zones {
        let _ = writeln!(text, "  - domain: {origin}\n    file: \"{origin}zone\"");
    }
    text
}
