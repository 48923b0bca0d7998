//! What the shards, the configuration and the quotas say of themselves, as Prometheus text.

use std::fmt::Write as _;

use postrail_core::base::Timestamp;

use crate::mesh::ShardStatus;
use crate::shard::NodeFacts;

/// Prometheus text of what the shards say, of the configuration, and of the quotas on the day of `now`.
pub(super) fn text(statuses: &[ShardStatus], node: &NodeFacts, now: Timestamp) -> String {
    type Read = fn(&ShardStatus) -> u64;
    const COUNTERS: [(&str, &str, Read); 13] = [
        ("accepted_recipients", "Recipients accepted.", |s| s.counters.accepted),
        ("delivered_recipients", "Recipients delivered.", |s| s.counters.delivered),
        ("deferred_attempts", "Attempts that ended in a transient failure.", |s| s.counters.deferred),
        ("bounced_recipients", "Recipients that failed for good.", |s| s.counters.bounced),
        ("expired_recipients", "Recipients whose time was over.", |s| s.counters.expired),
        ("suppressed_recipients", "Recipients dropped by a suppression.", |s| s.counters.suppressed),
        ("cancelled_recipients", "Recipients cancelled.", |s| s.counters.cancelled),
        ("egress_attempts", "Transactions begun.", |s| s.counters.attempts),
        ("egress_pipelined", "Transactions begun behind others on their connection.", |s| s.counters.pipelined),
        ("egress_connections", "Connections opened.", |s| s.counters.connections),
        ("transfer_given_recipients", "Recipients whose job another host took.", |s| s.counters.given),
        ("transfer_taken_recipients", "Recipients whose job came from another host.", |s| s.counters.taken),
        ("mesh_handed", "Groups handed to the shard that owns their source.", |s| s.counters.handed),
    ];
    const GAUGES: [(&str, &str, Read); 9] = [
        ("waiting_recipients", "Recipients that have not settled.", |s| s.waiting as u64),
        ("recovering", "1 while jobs of an earlier start are still being read.", |s| u64::from(s.recovering)),
        ("intake_sessions", "Open submission sessions.", |s| s.intake_sessions as u64),
        ("snapshot_revision", "The configuration in effect.", |s| s.revision),
        ("spool_bytes", "Octets of live spool segments.", |s| s.spool_bytes),
        ("spool_segments", "Spool segments in use.", |s| s.spool_segments as u64),
        ("spool_damaged", "Damaged parts of the spool that were set aside.", |s| s.damaged as u64),
        ("journal_bytes", "Octets of events kept for the ledger.", |s| s.journal_bytes),
        ("journal_unread_bytes", "Octets of events that the ledger has not stored yet.", |s| s.journal_unread_bytes),
    ];
    let mut text = String::new();
    let mut write = |rows: &[(&str, &str, Read)], kind: &str, suffix: &str| {
        for (name, help, read) in rows {
            let _ = writeln!(text, "# HELP postrail_{name}{suffix} {help}\n# TYPE postrail_{name}{suffix} {kind}");
            for status in statuses {
                let _ = writeln!(text, "postrail_{name}{suffix}{{shard=\"{}\"}} {}", status.shard, read(status));
            }
        }
    };
    write(&COUNTERS, "counter", "_total");
    write(&GAUGES, "gauge", "");
    for (name, kind, help, value) in of_host(node, now) {
        let _ = writeln!(text, "# HELP postrail_{name} {help}\n# TYPE postrail_{name} {kind}\npostrail_{name} {value}");
    }
    text
}

/// Name, kind, help and value of what the host has once.
fn of_host(node: &NodeFacts, now: Timestamp) -> [(&'static str, &'static str, &'static str, u64); 11] {
    let (feed, usage) = (&node.feed, &node.usage);
    let (own, others) = usage.total(now);
    let (octets, lists) = feed.suppressions_taken();
    [
        ("quota_own_recipients", "gauge", "Recipients taken here today of tenants with a quota.", own),
        ("quota_others_recipients", "gauge", "As the leader told, of what all other hosts took today.", others),
        ("quota_told_ms", "gauge", "When the leader last told that, Unix milliseconds; 0: never.", usage.told_ms()),
        ("published_revision", "gauge", "The newest configuration that was seen.", feed.revision_seen()),
        (
            "configuration_connected",
            "gauge",
            "1 while the configuration store answers.",
            u64::from(feed.is_connected()),
        ),
        ("configuration_heard_ms", "gauge", "When it last answered, Unix milliseconds; 0: never.", feed.heard_ms()),
        (
            "suppressions_behind",
            "gauge",
            "1 while newer suppressions are known.",
            u64::from(feed.suppressions_behind()),
        ),
        ("suppressions", "gauge", "Suppressions in effect.", feed.suppressions_count()),
        ("suppressions_octets_total", "counter", "Octets in which suppressions came.", octets),
        ("suppressions_lists_total", "counter", "Whole lists of suppressions among these.", lists),
        ("configuration_refused_total", "counter", "Publications that were not put in effect.", feed.refused()),
    ]
}
