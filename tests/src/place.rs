//! A temporary folder and free ports of one story.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// A folder that is removed when the story ends well; a failed story's is kept and named.
pub struct Place {
    path: PathBuf,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How many ports stories choose from.
const PORTS: u32 = 20_000;

impl Place {
    /// A fresh folder for the story `name`.
    pub fn new(name: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postrail-story-{}-{count}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `name` in this folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A loopback address with a port that nobody else gets while this story runs.
pub fn free_address() -> SocketAddr {
    free_on(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// As [`free_address`], on another address of this host.
pub fn free_on(address: IpAddr) -> SocketAddr {
    // A socket that is bound and does not listen keeps the port: nobody else can bind it as it is bound here, while a
    // server that names it gets it, since servers let addresses be used again. Below what the system gives to clients,
    // since a name server takes the same port for datagrams, and such a socket would get a part of them.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static KEPT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let (family, any) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes start far apart.
        let port = 10_000 + std::process::id().wrapping_mul(97).wrapping_add(step) % PORTS;
        let port = u16::try_from(port).expect("a port");
        let socket = socket(family, SocketType::STREAM, None).expect("a socket");
        if bind(&socket, &SocketAddr::new(any, port)).is_ok() {
            sockopt::set_socket_reuseaddr(&socket, true).expect("an option of every socket");
            sockopt::set_socket_reuseport(&socket, true).expect("an option of every socket");
            KEPT.lock().expect("nobody panics with it").push(socket);
            return SocketAddr::new(address, port);
        }
    }
    panic!("no port of {address} is free")
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the repository").to_owned()
}

/// Where build output goes; peers and Python packages of the stories are installed below it by `ops/test`.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}
