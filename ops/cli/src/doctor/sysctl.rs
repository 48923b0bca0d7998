//! The kernel's settings for TCP and ports: one table row each. `ops/sysctl/60-postrail.conf` holds the same values,
//! but for those that a host may have better already (windows and congestion control): `--fix` sets them only where they are bad.

use super::finding::{Finding, Remedy, Severity, Subject, Write};
use super::root::Root;

/// What a value must be.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A number of at least this (the last one of several).
    AtLeast(u64),
    /// A number of at most this.
    AtMost(u64),
    /// A range of at least so many numbers.
    Wide(u64),
}

/// A setting of the kernel.
struct Row {
    name: &'static str,
    rule: Rule,
    /// What `--fix` writes, and the sysctl file says.
    value: &'static str,
    severity: Severity,
    why: &'static str,
}

const ROWS: [Row; 16] = [
    Row {
        name: "net.ipv4.ip_local_port_range",
        rule: Rule::Wide(50_000),
        value: "10240 65535",
        severity: Severity::Advice,
        why: "each connection from one source address to one receiver takes a port for its time and a minute longer",
    },
    Row {
        name: "net.core.somaxconn",
        rule: Rule::AtLeast(4_096),
        value: "65535",
        severity: Severity::Warning,
        why: "it cuts the queue of connections that wait to be accepted, so that a burst of clients is refused",
    },
    Row {
        name: "net.ipv4.tcp_max_syn_backlog",
        rule: Rule::AtLeast(4_096),
        value: "65535",
        severity: Severity::Advice,
        why: "half-open connections over it fall back to SYN cookies, which lose TCP options",
    },
    Row {
        name: "net.ipv4.tcp_syncookies",
        rule: Rule::OneOf(&["1", "2"]),
        value: "1",
        severity: Severity::Warning,
        why: "without it a flood of SYN packets shuts clients out",
    },
    Row {
        name: "net.core.netdev_max_backlog",
        rule: Rule::AtLeast(4_096),
        value: "16384",
        severity: Severity::Advice,
        why: "packets that are steered to another CPU, or cross a veth or loopback, are dropped over it",
    },
    Row {
        name: "net.ipv4.tcp_tw_reuse",
        rule: Rule::OneOf(&["1"]),
        value: "1",
        severity: Severity::Advice,
        why: "a port whose connection has ended serves the same receiver again after a second, not after a minute",
    },
    Row {
        name: "net.ipv4.tcp_timestamps",
        rule: Rule::OneOf(&["1", "2"]),
        value: "1",
        severity: Severity::Warning,
        why: "ports are reused safely, and round trips are measured well, only with timestamps",
    },
    Row {
        name: "net.ipv4.tcp_fin_timeout",
        rule: Rule::AtMost(30),
        value: "30",
        severity: Severity::Advice,
        why: "a receiver that does not close keeps our half of the connection so many seconds",
    },
    Row {
        name: "net.ipv4.tcp_max_tw_buckets",
        rule: Rule::AtLeast(65_536),
        value: "262144",
        severity: Severity::Advice,
        why: "over it ended connections are forgotten at once, and a late packet may meet a new one",
    },
    Row {
        name: "net.ipv4.tcp_slow_start_after_idle",
        rule: Rule::OneOf(&["0"]),
        value: "0",
        severity: Severity::Advice,
        why: "a connection that is kept for the next mail starts slowly again after each pause",
    },
    Row {
        name: "net.ipv4.tcp_mtu_probing",
        rule: Rule::OneOf(&["1", "2"]),
        value: "1",
        severity: Severity::Advice,
        why: "behind a network that swallows ICMP large mails hang for ever while small ones pass",
    },
    Row {
        name: "net.ipv4.tcp_sack",
        rule: Rule::OneOf(&["1"]),
        value: "1",
        severity: Severity::Warning,
        why: "without it one lost packet repeats everything that was sent after it",
    },
    Row {
        name: "net.ipv4.tcp_window_scaling",
        rule: Rule::OneOf(&["1"]),
        value: "1",
        severity: Severity::Warning,
        why: "without it a connection moves at most 64 KB a round trip",
    },
    Row {
        name: "net.ipv4.tcp_rmem",
        rule: Rule::AtLeast(1_048_576),
        value: "4096 131072 6291456",
        severity: Severity::Advice,
        why: "the largest receive window: submissions from afar are slower than their line under it",
    },
    Row {
        name: "net.ipv4.tcp_wmem",
        rule: Rule::AtLeast(1_048_576),
        value: "4096 16384 4194304",
        severity: Severity::Advice,
        why: "the most that is sent before an acknowledgement: far receivers are slower than their line under it",
    },
    Row {
        name: "net.ipv4.tcp_congestion_control",
        rule: Rule::OneOf(&["bbr", "cubic"]),
        value: "cubic",
        severity: Severity::Advice,
        why: "older algorithms halve the rate at each lost packet and recover slowly",
    },
];

/// Findings on every row, and on connection tracking.
pub(super) fn check(root: &Root) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ROWS.iter().map(|row| row.check(root.line(&path(row.name)).as_deref())).collect();
    let number = |name: &str| root.value::<u64>(&path(name));
    findings.extend(conntrack(number("net.netfilter.nf_conntrack_count"), number("net.netfilter.nf_conntrack_max")));
    findings
}

impl Row {
    fn check(&self, found: Option<&str>) -> Finding {
        let Some(found) = found else {
            let why = "this kernel or network namespace does not show it";
            return Finding::skipped(Subject::Tcp, self.name, self.name, why);
        };
        let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
        Finding::new(Subject::Tcp, self.name, self.name, found.clone())
            .wanted(self.rule.text(self.value), self.why)
            .unless(self.rule.holds(&found), self.severity)
            .remedy(|| {
                let write = Write { path: path(self.name), value: self.value.to_owned() };
                Remedy::safe(format!("sysctl -w {}='{}'", self.name, self.value), vec![write])
            })
    }
}

impl Rule {
    fn holds(self, found: &str) -> bool {
        let mut words = found.split_whitespace();
        let last = || found.split_whitespace().last().and_then(|word| word.parse::<u64>().ok());
        match self {
            Self::OneOf(allowed) => allowed.contains(&found),
            Self::AtLeast(least) => last().is_some_and(|value| value >= least),
            Self::AtMost(most) => last().is_some_and(|value| value <= most),
            Self::Wide(least) => {
                let first = words.next().and_then(|word| word.parse::<u64>().ok());
                first.zip(last()).is_some_and(|(first, last)| last.saturating_sub(first) >= least - 1)
            }
        }
    }

    fn text(self, value: &str) -> String {
        match self {
            Self::OneOf(allowed) => allowed.join(" or "),
            Self::AtLeast(least) if value.contains(' ') => format!("{value} (at least {least} as the last)"),
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
            Self::Wide(_) => value.to_owned(),
        }
    }
}

/// A firewall that follows connections drops new ones once its table is full, and nothing in the mail log tells why.
fn conntrack(count: Option<u64>, most: Option<u64>) -> Option<Finding> {
    let most = most?;
    let count = count.unwrap_or(0);
    let is_near = count > most / 5 * 4;
    let finding = Finding::new(
        Subject::Tcp,
        "net.netfilter.nf_conntrack_max",
        "followed connections",
        format!("{count} of {most}"),
    )
    .wanted(
        "at least 262144, and not near to be full",
        "the firewall drops new connections, in and out, once its table is full",
    )
    .unless(most >= CONNTRACK_WANTED, Severity::Advice)
    .unless(!is_near, Severity::Warning)
    .remedy(|| {
        Remedy::by_hand(format!(
            "sysctl -w net.netfilter.nf_conntrack_max={}",
            most.max(CONNTRACK_WANTED / 2).saturating_mul(2)
        ))
    });
    Some(finding)
}

const CONNTRACK_WANTED: u64 = 262_144;

fn path(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file would replace good values, too: a host may have larger windows, or BBR.
    const NOT_FILED: [&str; 3] = ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_congestion_control"];

    const FILE: &str = include_str!("../../../sysctl/60-postrail.conf");

    #[test]
    fn the_sysctl_file_sets_what_the_doctor_wants_and_nothing_else() {
        let settings = FILE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let in_file: Vec<(&str, &str)> = settings
            .map(|line| line.split_once('=').expect("name = value"))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let wanted: Vec<(&str, &str)> =
            ROWS.iter().map(|row| (row.name, row.value)).filter(|(name, _)| !NOT_FILED.contains(name)).collect();
        assert_eq!(in_file, wanted);
        for row in &ROWS {
            assert!(row.rule.holds(row.value), "{} satisfies its own rule", row.name);
        }
    }

    #[test]
    fn values_are_judged_by_their_rule() {
        for (rule, value, holds) in [
            (Rule::AtLeast(4_096), "4096", true),
            (Rule::AtLeast(4_096), "128", false),
            (Rule::AtLeast(100), "1 2 100", true),
            (Rule::AtMost(30), "60", false),
            (Rule::Wide(50_000), "10240 65535", true),
            (Rule::Wide(50_000), "32768 60999", false),
            (Rule::Wide(50_000), "65535 1", false),
            (Rule::Wide(50_000), "0 18446744073709551615", true),
            (Rule::Wide(50_000), "junk", false),
            (Rule::OneOf(&["1"]), "1", true),
            (Rule::OneOf(&["1"]), "", false),
        ] {
            assert_eq!(rule.holds(value), holds, "{rule:?} {value}");
        }
    }

    #[test]
    fn a_full_table_of_connections_is_a_warning() {
        for (count, most, severity) in
            [(10, 262_144, Severity::Ok), (10, 65_536, Severity::Advice), (250_000, 262_144, Severity::Warning)]
        {
            assert_eq!(conntrack(Some(count), Some(most)).map(|finding| finding.severity), Some(severity));
        }
        assert_eq!(conntrack(None, None), None);
    }
}
