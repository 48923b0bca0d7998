//! Postfix as a receiver: STARTTLS, SMTPUTF8, 8BITMIME, PIPELINING, DSN; refusals by recipient from an access map.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Maildir, NOBODY, certificate, make_folder, unpacked, wait_listening};
use crate::child::Running;
use crate::place::Place;
use crate::wait;

/// Debian's `daemon` and `mail`: an owner of mail and a group that nobody else here shares.
const OWNER: u32 = 1;
const GROUP: u32 = 8;

/// A running Postfix.
pub struct Postfix {
    folder: PathBuf,
    inbox: Maildir,
    process: Running,
}

impl Postfix {
    /// Listens at these addresses.
    pub fn start(place: &Place, addresses: &[SocketAddr]) -> Self {
        Self::start_with(place, addresses, &[])
    }

    /// As [`Self::start`], with further lines of `main.cf` (`name = value`).
    pub fn start_with(place: &Place, addresses: &[SocketAddr], settings: &[&str]) -> Self {
        let folder = place.join(&format!("postfix-{}", addresses[0].ip()).replace(':', "-"));
        make_queue(&folder);
        let inbox = Maildir::below(&folder.join("mail"), NOBODY);
        let configuration = folder.join("etc");
        std::fs::create_dir_all(&configuration).expect("a folder can be made");
        std::fs::write(configuration.join("main.cf"), main_cf(&folder, settings)).expect("writable");
        std::fs::write(configuration.join("master.cf"), master_cf(addresses)).expect("writable");
        std::fs::write(configuration.join("recipients"), "").expect("writable");
        let libraries = libraries();
        let mut command = Command::new(libraries.join("sbin/master"));
        command.arg("-d").arg("-c").arg(&configuration).env("LD_LIBRARY_PATH", &libraries);
        let process = Running::start(&mut command, &folder.join("output"));
        addresses.iter().for_each(|address| wait_listening("Postfix", *address));
        let started = Self { folder, inbox, process };
        // It listens before it minds signals, and says this after both.
        wait::until("Postfix to start", || started.log().contains("daemon started").then_some(()));
        started
    }

    pub fn inbox(&self) -> &Maildir {
        &self.inbox
    }

    /// From now on these recipients are answered so (`450 4.2.0 not now`), all others are taken.
    pub fn refuse(&self, recipients: &[(&str, &str)]) {
        let lines: String = recipients.iter().map(|(address, reply)| format!("{address} {reply}\n")).collect();
        std::fs::write(self.folder.join("etc/recipients"), lines).expect("writable");
        self.process.signal(libc::SIGHUP);
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// Where Postfix's own libraries are.
pub fn libraries() -> PathBuf {
    unpacked("postfix").join("usr/lib/postfix")
}

/// Postfix's smtp-sink, which takes mail and keeps it as files.
pub fn sink() -> PathBuf {
    unpacked("postfix").join("usr/sbin/smtp-sink")
}

fn make_queue(folder: &Path) {
    make_folder(&folder.join("data"), OWNER, OWNER);
    let queue = folder.join("queue");
    for name in
        ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"]
    {
        make_folder(&queue.join(name), OWNER, 0);
    }
    make_folder(&queue.join("pid"), 0, 0);
    for (name, mode) in [("maildrop", 0o730), ("public", 0o710)] {
        make_folder(&queue.join(name), OWNER, GROUP);
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(queue.join(name), permissions).expect("our own folder");
    }
}

fn main_cf(folder: &Path, settings: &[&str]) -> String {
    let root = unpacked("postfix").canonicalize().expect("an unpacked peer");
    let (certificate, key) = certificate(folder);
    let (at, root, certificate, key) = (folder.display(), root.display(), certificate.display(), key.display());
    let mut text = format!(
        "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
         daemon_directory = {root}/usr/lib/postfix/sbin\ncommand_directory = {root}/usr/sbin\n\
         shlib_directory = {root}/usr/lib/postfix\nmeta_directory = {root}/etc/postfix\n\
         import_environment = LD_LIBRARY_PATH MAIL_CONFIG TZ PATH\nmail_owner = daemon\nsetgid_group = mail\n\
         default_privs = nobody\nmyhostname = postfix.test\nmydestination =\ninet_interfaces = all\n\
         inet_protocols = all\nmynetworks =\nmaillog_file = {at}/log\nmaillog_file_prefixes = {at}\n\
         local_recipient_maps =\nalias_maps =\nvirtual_mailbox_domains = static:all\n\
         virtual_mailbox_base = {at}/mail\nvirtual_mailbox_maps = static:inbox/\nvirtual_minimum_uid = 1\n\
         virtual_uid_maps = static:{NOBODY}\nvirtual_gid_maps = static:{NOBODY}\nvirtual_mailbox_limit = 0\n\
         mailbox_size_limit = 0\nmessage_size_limit = 52428800\nsmtpd_tls_security_level = may\n\
         smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\nsmtpd_tls_received_header = yes\n\
         smtpd_recipient_restrictions = check_recipient_access texthash:{at}/etc/recipients, \
         reject_unauth_destination\nsmtpd_relay_restrictions =\nsmtpd_recipient_limit = 1000\n\
         smtpd_client_connection_count_limit = 0\nsmtputf8_enable = yes\nnotify_classes =\nsmtpd_error_sleep_time = 0\n"
    );
    for setting in settings {
        let _ = writeln!(text, "{setting}");
    }
    text
}

fn master_cf(addresses: &[SocketAddr]) -> String {
    let mut text = String::new();
    for address in addresses {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let _ = writeln!(text, "{host}:{} inet n - n - - smtpd", address.port());
    }
    text.push_str(
        "cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\nflush unix n - n 1000? 0 flush\nproxymap unix - - n - - proxymap\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\nanvil unix - - n - 1 anvil\nerror unix - - n - - error\n\
         retry unix - - n - - error\nvirtual unix - n n - - virtual\npostlog unix-dgram n - n - 1 postlogd\n",
    );
    text
}
