//! Which machine a figure is of: figures of two machines are not compared without saying so.

use std::fs;

use crate::result::Machine;

/// This host, as far as it tells.
pub fn here() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    Machine {
        cpus: std::thread::available_parallelism().map_or(0, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        cpu_model: value_of(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        memory_mb: value_of(&read("/proc/meminfo"), "MemTotal").and_then(kibibytes).unwrap_or(0) / 1024,
    }
}

/// One line for people.
pub fn line(machine: &Machine) -> String {
    let Machine { cpus, cpu_model, kernel, memory_mb } = machine;
    format!("{cpus} CPUs, {cpu_model}, Linux {kernel}, {memory_mb} MiB")
}

/// The first value of a `name: value` line.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kibibytes(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nMemTotal:       16384 kB\n";
        assert_eq!(value_of(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(value_of(text, "MemTotal").and_then(kibibytes), Some(16_384));
        assert_eq!(value_of(text, "name"), None);
    }
}
