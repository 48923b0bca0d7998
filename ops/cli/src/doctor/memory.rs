//! Huge pages: those that the kernel makes by itself, and those that are set aside.

use super::finding::{Finding, Remedy, Severity, Subject, Write};
use super::root::Root;

const TRANSPARENT: &str = "sys/kernel/mm/transparent_hugepage/enabled";

/// Findings on memory.
pub(super) fn check(root: &Root) -> Vec<Finding> {
    let meminfo = root.text("proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    let mut findings = Vec::new();
    findings.extend(root.line(TRANSPARENT).map(|line| transparent(&line)));
    let reserved = kilobytes("HugePages_Total").zip(kilobytes("HugePages_Free")).zip(kilobytes("Hugepagesize"));
    findings.extend(reserved.map(|((total, free), size)| reserved_pages(total, free.saturating_mul(size))));
    findings
}

fn transparent(line: &str) -> Finding {
    let chosen = line.split(['[', ']']).nth(1).unwrap_or(line);
    Finding::new(Subject::Memory, "memory.thp", "transparent huge pages", chosen)
        .wanted(
            "madvise or never",
            "by `always` small buffers grow to 2 MB each, and the kernel stops a shard now and then to make room for them",
        )
        .unless(chosen != "always", Severity::Advice)
        .remedy(|| {
            let write = Write { path: TRANSPARENT.to_owned(), value: "madvise".to_owned() };
            Remedy::safe(format!("echo madvise > /{TRANSPARENT}"), vec![write])
        })
}

fn reserved_pages(total: u64, free_kb: u64) -> Finding {
    Finding::new(
        Subject::Memory,
        "memory.hugepages",
        "reserved huge pages",
        format!("{total}, of which {free_kb} KB are free"),
    )
    .wanted("0 free", "what is set aside and not used is missing to the page cache; Postrail uses none of it")
    .unless(free_kb < RESERVED_KB_MAX, Severity::Advice)
    .remedy(|| Remedy::by_hand("sysctl -w vm.nr_hugepages=0, unless another program needs them"))
}

/// Reserved and free memory that is worth a word, KB.
const RESERVED_KB_MAX: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_judged_by_what_is_chosen() {
        for (line, severity) in [
            ("[always] madvise never", Severity::Advice),
            ("always [madvise] never", Severity::Ok),
            ("always madvise [never]", Severity::Ok),
            ("junk", Severity::Ok),
        ] {
            assert_eq!(transparent(line).severity, severity, "{line}");
        }
        assert_eq!(reserved_pages(1_024, 2 << 20).severity, Severity::Advice);
        assert_eq!(reserved_pages(0, 0).severity, Severity::Ok);
    }
}
