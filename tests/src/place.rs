//! A temporary folder and free ports of one story.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

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

/// A loopback address with a port that nobody uses at present.
pub fn free_address() -> SocketAddr {
    free_on(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// As [`free_address`], on another address of this host.
pub fn free_on(address: IpAddr) -> SocketAddr {
    // Below what the system gives to clients, so that none takes it before it is used; processes start far apart.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + std::process::id().wrapping_mul(97).wrapping_add(step) % PORTS;
        let candidate = SocketAddr::new(address, u16::try_from(port).expect("a port"));
        if TcpListener::bind(candidate).is_ok() {
            return candidate;
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
