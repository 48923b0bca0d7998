//! What a driver is set to, which has no file: rings, channels, offloads. Live it is asked by SIOCETHTOOL (netdevice(7),
//! linux/ethtool.h); in a recorded tree it is the file `ethtool/INTERFACE`, in TOML:
//!
//! ```toml
//! rx-ring = 1024
//! rx-ring-max = 8192
//! tx-ring = 1024
//! tx-ring-max = 8192
//! channels = 32
//! channels-max = 63
//! offloads-off = ["tso"]
//! ```
//!
//! Every key may be missing: a driver need not answer. `offloads-off` holds those of [`OFFLOADS`] that are off; without
//! it none was asked. All unsafe code of the command line is here and in `io_uring.rs`: each call passes a structure that
//! lives through it and has the size that the kernel's header gives.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};

use super::super::root::Root;

/// What a driver says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    /// Packets that fit the ring of one receive queue, and at most.
    pub(crate) rx_ring: Option<u32>,
    pub(crate) rx_ring_max: Option<u32>,
    pub(crate) tx_ring: Option<u32>,
    pub(crate) tx_ring_max: Option<u32>,
    /// Queues in use, and at most.
    pub(crate) channels: Option<u32>,
    pub(crate) channels_max: Option<u32>,
    pub(crate) offloads_off: Option<Vec<String>>,
}

/// The offloads that are looked at, as ethtool(8) calls them, with the command that asks.
pub(super) const OFFLOADS: [(&str, u32); 6] =
    [("rx", 0x14), ("tx", 0x16), ("sg", 0x18), ("tso", 0x1e), ("gso", 0x23), ("gro", 0x2b)];

/// What is known of the interface `name`.
pub(super) fn read(root: &Root, name: &str) -> Option<Settings> {
    let file = format!("ethtool/{name}");
    if root.is_live() {
        let settings = ask(name)?;
        root.keep(&file, &toml::to_string(&settings).unwrap_or_default());
        return Some(settings);
    }
    toml::from_str(&root.text(&file)?).ok()
}

fn ask(name: &str) -> Option<Settings> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    let mut settings = Settings::default();
    // `struct ethtool_ringparam`: command, four maxima (rx, mini, jumbo, tx), four values.
    let mut ring = [0_u32; 9];
    ring[0] = GET_RINGS;
    if call(&socket, name, &mut ring) {
        settings.rx_ring_max = Some(ring[1]);
        settings.tx_ring_max = Some(ring[4]);
        settings.rx_ring = Some(ring[5]);
        settings.tx_ring = Some(ring[8]);
    }
    // `struct ethtool_channels`: command, four maxima (rx, tx, other, combined), four counts.
    let mut channels = [0_u32; 9];
    channels[0] = GET_CHANNELS;
    if call(&socket, name, &mut channels) {
        let [_, rx_max, _, _, combined_max, rx, _, _, combined] = channels;
        settings.channels = Some(if combined_max > 0 { combined } else { rx });
        settings.channels_max = Some(if combined_max > 0 { combined_max } else { rx_max });
    }
    let mut answered = false;
    let mut off = Vec::new();
    for (offload, command) in OFFLOADS {
        // `struct ethtool_value`: command, value.
        let mut value = [command, 0];
        if call(&socket, name, &mut value) {
            answered = true;
            if value[1] == 0 {
                off.push(offload.to_owned());
            }
        }
    }
    settings.offloads_off = answered.then_some(off);
    (settings != Settings::default()).then_some(settings)
}

/// Asks the driver of `name`; the answer is in `request`, whose first word says what is asked.
fn call(socket: &UdpSocket, name: &str, request: &mut [u32]) -> bool {
    if name.len() >= libc::IFNAMSIZ {
        return false;
    }
    let mut label = [0; libc::IFNAMSIZ];
    for (to, from) in label.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: request.as_mut_ptr().cast() };
    let mut ifreq = libc::ifreq { ifr_name: label, ifr_ifru: data };
    // SAFETY: the structure lives through the call, its name ends with a zero octet, and its data points to an array of
    // the size that its first word, the command, makes the kernel read and write.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) == 0 }
}

const GET_RINGS: u32 = 0x10;
const GET_CHANNELS: u32 = 0x3c;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_driver_answers_is_not_known() {
        assert_eq!(ask("nosuch0"), None);
        assert_eq!(ask("an-interface-name-too-long"), None);
    }

    #[test]
    fn loopback_tells_its_offloads() {
        let off = ask("lo").and_then(|settings| settings.offloads_off).expect("the kernel answers for loopback");
        assert!(off.len() < OFFLOADS.len(), "{off:?}");
    }
}
