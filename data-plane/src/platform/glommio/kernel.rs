//! Questions to the kernel that std does not ask: is io_uring allowed, how much memory may be locked, on which cores
//! may we run, a port only at connect, entropy, room on a disk. Besides the wrapping of descriptors, all unsafe code of the platform is here.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket2::Socket;

use super::super::DiskUsage;

/// Sets up the smallest ring and closes it again.
///
/// # Errors
/// ENOSYS where the kernel has no io_uring, EPERM where seccomp or `kernel.io_uring_disabled` forbids it.
pub fn probe_io_uring() -> io::Result<()> {
    // `struct io_uring_params` has 120 octets, all of which the caller zeroes.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel reads and writes the 120 octets behind the pointer, which live through the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, parameters.as_mut_ptr()) };
    let ring = i32::try_from(ring).unwrap_or(-1);
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just given to us and is used nowhere else.
    unsafe { libc::close(ring) };
    Ok(())
}

/// Octets this process may lock, after the soft limit was raised to the hard one; `None` if there is no limit for it.
pub(super) fn lockable_bytes() -> io::Result<Option<u64>> {
    if has_capability(CAP_IPC_LOCK) {
        return Ok(None);
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure, which lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads the structure, which lives through the call. A refusal is seen below.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Raises the number of files that this process may have open to what it is allowed, and gives it.
///
/// # Errors
/// The kernel did not tell the limit, or refused to raise it.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure, which lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads the structure, which lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Cores this process may run on, ascending; never empty.
pub(super) fn allowed_cores() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the kernel writes at most the size given, which is that of the set.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed and every bit pattern is a set.
    let set = unsafe { set.assume_init() };
    let count = libc::CPU_SETSIZE as usize;
    // SAFETY: `core` is below CPU_SETSIZE, the number of bits in the set.
    Ok((0..count).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// Sets IP_BIND_ADDRESS_NO_PORT (ip(7)), which serves IPv6 too: `bind` to an address takes no port yet.
pub(super) fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    let (on, size) = (1_i32, size_of::<i32>() as libc::socklen_t);
    let (level, option) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    // SAFETY: the kernel reads four octets from `on`, which lives through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// 64 bits of the kernel's entropy.
///
/// # Panics
/// If the kernel has none to give, which it does not say after the start of the system (getrandom(2)).
pub(super) fn entropy() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the kernel writes at most the length given, which is that of the array.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 8, "up to 256 octets come whole and without interruption");
    u64::from_ne_bytes(bytes)
}

/// Use of the file system that holds `path`, as df(1) tells it: what is reserved for root is neither used nor free, also
/// where this process might take it.
pub(super) fn disk_usage(path: &Path) -> io::Result<DiskUsage> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut status = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero octet, and the kernel fills the structure, which lives through the call.
    if unsafe { libc::statvfs(path.as_ptr(), status.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed and every bit pattern is a status.
    let status = unsafe { status.assume_init() };
    let used_percent = used_percent(status.f_blocks, status.f_bfree, status.f_bavail);
    Ok(DiskUsage { used_percent, free_bytes: status.f_bavail.saturating_mul(status.f_frsize) })
}

/// What is used of what is used and may be.
fn used_percent(blocks: u64, free: u64, available: u64) -> u8 {
    let (used, available) = (u128::from(blocks.saturating_sub(free)), u128::from(available));
    let room = used + available;
    if room == 0 { 0 } else { (used * 100).div_ceil(room).min(100) as u8 }
}

/// Whether the effective set of this process has a capability; a `/proc` that cannot be read means no.
fn has_capability(bit: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> bit & 1 == 1)
}

/// Number of the capability to lock memory without limit (capability.h).
const CAP_IPC_LOCK: u32 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_reserved_for_root_are_neither_used_nor_free() {
        // 20 of 100 blocks are reserved: 8 used of 80 that may be.
        assert_eq!(used_percent(100, 92, 72), 10);
        assert_eq!(used_percent(100, 20, 0), 100);
        assert_eq!(used_percent(100, 28, 8), 90);
        assert_eq!(used_percent(100, 100, 100), 0);
        assert_eq!(used_percent(0, 0, 0), 0, "a file system without blocks, such as /proc");
    }
}
