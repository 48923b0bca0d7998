//! What a shard is tied to on its host: a CPU, and a network interface for the mail of its source addresses.
//!
//! ```text
//! interrupt of the interface's queue -> CPU -> the shard pinned to it -> its sources -> the interface
//! ```
//!
//! Invariants worth naming: a pin is checked before the first executor starts, so that a mistake is told in one
//! sentence and nothing runs half tied. Deliberately absent: which pins are good ones (the operator's file or the
//! layout that `postrail doctor` derives says so), and where interrupts go (the host's business).

use std::io;
use std::net::IpAddr;

use socket2::{Domain, Socket, Type};

use super::kernel;

/// What one shard is tied to; by default to nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardPin {
    /// The CPU that it runs on; `None`: the kernel's choice at every moment.
    pub cpu: Option<usize>,
    /// The interface that mail from `sources` leaves by. Connections that arrive on `cpu`, where the interface's
    /// interrupts should go, are then this shard's.
    pub nic: Option<String>,
    /// Addresses that this shard owns and sends from.
    pub sources: Vec<IpAddr>,
}

impl ShardPin {
    /// The interface that a connection from `source` is bound to.
    pub(super) fn device(&self, source: IpAddr) -> Option<&[u8]> {
        self.nic.as_deref().filter(|_| self.sources.contains(&source)).map(str::as_bytes)
    }

    /// The CPU whose incoming connections this shard wants.
    pub(super) fn incoming_cpu(&self) -> Option<usize> {
        self.cpu.filter(|_| self.nic.is_some())
    }
}

/// Why a shard cannot be tied as asked.
#[derive(thiserror::Error, Debug)]
pub enum PinError {
    #[error("shard {shard} is to run on CPU {cpu}, which this process may not use; it may use {allowed}")]
    Cpu { shard: usize, cpu: usize, allowed: String },
    #[error("shard {shard} is to send by {nic}, which is no network interface of this host")]
    NoDevice { shard: usize, nic: String },
    #[error("shard {shard} may not bind connections to {nic}: {source}; grant CAP_NET_RAW, or leave out its nic")]
    Device { shard: usize, nic: String, source: io::Error },
    #[error("the source {address} is given to shard {first} and to shard {second}: it has one owner")]
    TwoOwners { address: IpAddr, first: usize, second: usize },
    #[error("the kernel did not tell which CPUs this process may use")]
    Cpus(#[source] io::Error),
}

/// Asks the kernel for everything that `pins` (in the order of the shards) want, and lets go of it again.
///
/// # Errors
/// The first that is not to be had.
pub fn check_pins(pins: &[ShardPin]) -> Result<(), PinError> {
    let allowed = kernel::allowed_cores().map_err(PinError::Cpus)?;
    for (shard, pin) in pins.iter().enumerate() {
        if let Some(cpu) = pin.cpu.filter(|cpu| !allowed.contains(cpu)) {
            let allowed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(PinError::Cpu { shard, cpu, allowed });
        }
        for address in &pin.sources {
            if let Some(first) = pins[..shard].iter().position(|other| other.sources.contains(address)) {
                return Err(PinError::TwoOwners { address: *address, first, second: shard });
            }
        }
        if let Some(nic) = &pin.nic {
            bind_trial(nic).map_err(|source| match source.raw_os_error() {
                Some(libc::ENODEV | libc::EINVAL) => PinError::NoDevice { shard, nic: nic.clone() },
                _ => PinError::Device { shard, nic: nic.clone(), source },
            })?;
        }
    }
    Ok(())
}

fn bind_trial(nic: &str) -> io::Result<()> {
    // An empty name would unbind, and the kernel cuts a longer one.
    if nic.is_empty() || nic.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    Socket::new(Domain::IPV4, Type::STREAM, None)?.bind_device(Some(nic.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(cpu: usize, nic: Option<&str>, source: &str) -> ShardPin {
        ShardPin { cpu: Some(cpu), nic: nic.map(str::to_owned), sources: vec![source.parse().unwrap()] }
    }

    #[test]
    fn only_a_source_of_the_pin_is_bound_to_its_interface() {
        let tied = pin(0, Some("eth1"), "192.0.2.1");
        assert_eq!(tied.device("192.0.2.1".parse().unwrap()), Some(&b"eth1"[..]));
        assert_eq!(tied.device("192.0.2.2".parse().unwrap()), None);
        assert_eq!(tied.incoming_cpu(), Some(0));
        assert_eq!(pin(0, None, "192.0.2.1").incoming_cpu(), None, "any shard takes what arrives");
    }

    #[test]
    fn what_cannot_be_had_is_told_with_its_shard() {
        let cpu = kernel::allowed_cores().unwrap()[0];
        let good = pin(cpu, Some("lo"), "192.0.2.1");
        check_pins(std::slice::from_ref(&good)).unwrap();
        for (bad, words) in [
            (pin(100_000, None, "192.0.2.2"), "shard 1 is to run on CPU 100000"),
            (pin(cpu, Some("nosuch0"), "192.0.2.2"), "nosuch0, which is no network interface"),
            (pin(cpu, Some(""), "192.0.2.2"), "no network interface"),
            (pin(cpu, Some("an-interface-name-too-long"), "192.0.2.2"), "no network interface"),
            (pin(cpu, None, "192.0.2.1"), "given to shard 0 and to shard 1"),
        ] {
            let error = check_pins(&[good.clone(), bad]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
