//! OpenSMTPD as a receiver: what it does not offer is the point (no SMTPUTF8, no PIPELINING, here no STARTTLS).

use std::net::SocketAddr;

use super::{Maildir, NOBODY, accounts, in_namespace, unpacked, wait_listening};
use crate::child::Running;
use crate::place::Place;

/// A running OpenSMTPD.
pub struct OpenSmtpd {
    inbox: Maildir,
    _process: Running,
}

impl OpenSmtpd {
    /// Listens at `address` and takes everything.
    pub fn start(place: &Place, address: SocketAddr) -> Self {
        let folder = place.join("opensmtpd");
        let inbox = Maildir::below(&folder.join("mail"), NOBODY);
        let file = folder.join("configuration");
        let configuration = format!(
            "table anybody {{ \"@\" = \"nobody\" }}\nsmtp max-message-size \"50M\"\n\
             listen on {} port {} hostname opensmtpd.test\naction \"in\" maildir \"{}\" virtual <anybody>\n\
             match from any for any action \"in\"\n",
            address.ip(),
            address.port(),
            inbox.path().display()
        );
        std::fs::write(&file, configuration).expect("writable");
        let mut script = accounts(&folder, &[("opensmtpd", 991), ("opensmtpq", 992)]);
        let root = unpacked("opensmtpd").canonicalize().expect("an unpacked peer");
        // The folders that are compiled into it, in its own namespace.
        script.push_str(&format!(
            "mount -t tmpfs tmpfs /usr/libexec\nmkdir /usr/libexec/opensmtpd\n\
             mount --bind '{root}/usr/libexec/opensmtpd' /usr/libexec/opensmtpd\n\
             mount -t tmpfs -o mode=755 tmpfs /var/spool\nmkdir -m 711 /var/spool/smtpd\n\
             mount -t tmpfs -o mode=755 tmpfs /var/lib\nmkdir -p /var/lib/opensmtpd/empty\n\
             mount -t tmpfs -o mode=755 tmpfs /run\nexec '{root}/usr/sbin/smtpd' -d -f '{}'",
            file.display(),
            root = root.display(),
        ));
        let process = Running::start(&mut in_namespace(&script), &folder.join("output"));
        wait_listening("OpenSMTPD", address);
        Self { inbox, _process: process }
    }

    pub fn inbox(&self) -> &Maildir {
        &self.inbox
    }
}
