//! Addresses on one end of a pair of interfaces in a network namespace, as `ip` and the other end see them.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::*;

const CHOICE: Carrier = Carrier::HostChoice;

fn nic(name: &str) -> Carrier {
    Carrier::Nic(name.to_owned())
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip(8) is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Does `work` in a namespace with the interfaces `near` and `far`, which are one cable.
fn between(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: no pointers; it moves this thread alone, which ends with the work.
            let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "a network namespace can be made: {}", io::Error::last_os_error());
            ip("link add near type veth peer name far");
            ip("link set near up");
            ip("link set far up");
            work();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn is_on(address: &str) -> bool {
    ip("address show dev near").contains(&format!(" {address}/"))
}

/// Waits until `address` has gone, and says after what time.
fn gone_after(address: &str) -> Duration {
    let began = Instant::now();
    while is_on(address) {
        assert!(began.elapsed() < Duration::from_secs(20), "{address} stays on");
        std::thread::yield_now();
    }
    began.elapsed()
}

#[test]
fn an_address_is_put_on_extended_and_taken_off() {
    between(|| {
        let mut interfaces = Interfaces::open(Some("near".to_owned())).unwrap();
        for text in ["192.0.2.9", "2001:db8::9"] {
            let address = text.parse().unwrap();
            interfaces.put_on(address, &CHOICE, Some(Duration::from_secs(100))).unwrap();
            let shown = ip("address show dev near");
            assert!(is_on(text) && shown.contains("deprecated"), "{shown}");
            interfaces.extend(address, Duration::from_secs(500)).unwrap();
            let shown = ip("address show dev near");
            assert!(shown.contains("valid_lft 500sec") || shown.contains("valid_lft 499sec"), "{shown}");
            interfaces.take_off(address, &CHOICE).unwrap();
            assert!(!is_on(text));
            interfaces.take_off(address, &CHOICE).unwrap();
        }
        let fixed = [192, 0, 2, 10].into();
        interfaces.put_on(fixed, &nic("near"), None).unwrap();
        assert!(ip("address show dev near").contains("valid_lft forever"));
    });
}

#[test]
fn the_kernel_takes_an_address_off_when_its_lifetime_ends() {
    between(|| {
        let mut interfaces = Interfaces::open(Some("near".to_owned())).unwrap();
        for text in ["192.0.2.9", "2001:db8::9"] {
            interfaces.put_on(text.parse().unwrap(), &CHOICE, Some(Duration::from_secs(1))).unwrap();
            let took = gone_after(text);
            // A second, and what the kernel is late at most; and what `ip` takes to show it.
            assert!(took < Duration::from_millis(2_250), "{text} went after {took:?}");
        }
    });
}

#[test]
fn the_other_end_hears_of_an_address() {
    between(|| {
        let all = Protocol::from(i32::from((libc::ETH_P_ARP as u16).to_be()));
        let listener = Socket::new(Domain::from(libc::AF_PACKET), Type::DGRAM, Some(all)).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut interfaces = Interfaces::open(Some("near".to_owned())).unwrap();
        let (address, lifetime) = ([192, 0, 2, 9].into(), Duration::from_secs(100));
        assert_eq!(interfaces.put_on(address, &CHOICE, Some(lifetime)).unwrap(), Bringer::Us);
        let mut packet = [0_u8; 64];
        let mut listener = listener;
        // The first announcement may be lost: those that follow come with extensions, and there is an end to them.
        for _ in 0..ANNOUNCEMENTS {
            io::Read::read(&mut listener, &mut packet).unwrap();
            assert_eq!(packet[14..18], Ipv4Addr::new(192, 0, 2, 9).octets());
            interfaces.extend(address, lifetime).unwrap();
        }
        listener.set_nonblocking(true).unwrap();
        assert!(io::Read::read(&mut listener, &mut packet).is_err(), "it is told often enough");
        // What is learnt from it: the far end sends to the near one without asking.
        interfaces.put_on("2001:db8::9".parse().unwrap(), &CHOICE, None).unwrap();
    });
}

#[test]
fn what_cannot_be_done_is_said() {
    between(|| {
        let mut interfaces = Interfaces::open(None).unwrap();
        let address = [192, 0, 2, 9].into();
        assert!(matches!(interfaces.put_on(address, &CHOICE, None), Err(AddressError::NoInterface(_))));
        for name in ["", "nowhere", "a-name-that-is-too-long"] {
            let refused = interfaces.put_on(address, &nic(name), None);
            assert!(matches!(refused, Err(AddressError::Unknown { .. })), "{refused:?}");
        }
        let mut routed = Interfaces::routed();
        assert_eq!(routed.put_on(address, &CHOICE, None).unwrap(), Bringer::Network);
        assert_eq!(interfaces.put_on(address, &Carrier::Routed, None).unwrap(), Bringer::Network);
        assert!(!is_on("192.0.2.9"));
        // What somebody else put on, since the network brings it here, is not ours to take off.
        ip("address add 192.0.2.9/32 dev near");
        let mut other = Interfaces::open(Some("near".to_owned())).unwrap();
        other.take_off(address, &Carrier::Routed).unwrap();
        assert!(is_on("192.0.2.9"));
    });
}

#[test]
fn what_a_host_has_by_its_own_configuration_is_known_and_left_as_it_is() {
    between(|| {
        ip("link set lo up");
        let mut interfaces = Interfaces::open(Some("near".to_owned())).unwrap();
        for (address, lifetime) in [("192.0.2.9", Some(100)), ("192.0.2.10", None), ("2001:db8::10", None)] {
            interfaces.put_on(address.parse().unwrap(), &CHOICE, lifetime.map(Duration::from_secs)).unwrap();
        }
        ip("address add 192.0.2.40/32 dev lo");
        assert_eq!(
            interfaces.look().unwrap(),
            [].into(),
            "what was put on, of the link, and on the loopback interface"
        );
        let own = ["192.0.2.20", "192.0.2.21", "192.0.2.22", "2001:db8::20", "2001:db8::21"];
        for (address, options) in own.iter().zip(["/24", "/32", "/32 valid_lft 900 preferred_lft 900", "/64", "/128"]) {
            ip(&format!("address add {address}{options} dev near"));
        }
        let own: BTreeSet<IpAddr> = own.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(interfaces.look().unwrap(), own);
        let before = ip("-o address show dev near");
        for address in &own {
            let brought = interfaces.put_on(*address, &CHOICE, Some(Duration::from_secs(1))).unwrap();
            assert_eq!(brought, Bringer::Host);
            interfaces.extend(*address, Duration::from_secs(1)).unwrap();
            interfaces.take_off(*address, &CHOICE).unwrap();
        }
        let without_times = |shown: &str| shown.replace("900sec", "899sec").replace("898sec", "899sec");
        assert_eq!(without_times(&ip("-o address show dev near")), without_times(&before));
        assert_eq!(Interfaces::routed().look().unwrap(), [].into(), "a routed host says nothing");
    });
}

#[test]
fn an_address_that_comes_to_be_configured_is_not_ended() {
    between(|| {
        let mut interfaces = Interfaces::open(Some("near".to_owned())).unwrap();
        let address: IpAddr = "2001:db8::9".parse().unwrap();
        interfaces.put_on(address, &CHOICE, Some(Duration::from_secs(100))).unwrap();
        ip("address replace 2001:db8::9/128 dev near");
        assert_eq!(interfaces.look().unwrap(), [address].into());
        interfaces.extend(address, Duration::from_secs(100)).unwrap();
        interfaces.take_off(address, &CHOICE).unwrap();
        assert!(is_on("2001:db8::9") && ip("-6 address show dev near scope global").contains("valid_lft forever"));
    });
}

#[test]
fn a_lifetime_is_whole_seconds() {
    let ms = Duration::from_millis;
    for (now, until, seconds) in [(0, 7_500, 8), (0, 7_000, 7), (6_900, 7_000, 1)] {
        assert_eq!(lifetime(ms(now), ms(until)), Some(Duration::from_secs(seconds)));
    }
    assert_eq!(lifetime(ms(7_000), ms(7_000)), None);
}
