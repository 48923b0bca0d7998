//! Exim as a receiver: STARTTLS, SMTPUTF8, 8BITMIME, PIPELINING.

use std::net::SocketAddr;
use std::path::Path;

use super::{Maildir, accounts, certificate, in_namespace, make_folder, unpacked, wait_listening};
use crate::child::Running;
use crate::place::Place;

/// The number of the account that Exim runs under, which exists in its namespace only.
const EXIM: u32 = 990;

/// A running Exim.
pub struct Exim {
    inbox: Maildir,
    _process: Running,
}

impl Exim {
    /// Listens at `address` and takes everything.
    pub fn start(place: &Place, address: SocketAddr) -> Self {
        let folder = place.join("exim");
        make_folder(&folder.join("spool"), EXIM, EXIM);
        let inbox = Maildir::below(&folder.join("mail"), EXIM);
        let file = folder.join("configuration");
        std::fs::write(&file, configuration(&folder, inbox.path(), address)).expect("writable");
        let mut script = accounts(&folder, &[("Debian-exim", EXIM)]);
        let program = unpacked("exim4").join("usr/sbin/exim4");
        script.push_str(&format!("exec '{}' -bdf -odf -C '{}'", program.display(), file.display()));
        let process = Running::start(&mut in_namespace(&script), &folder.join("output"));
        wait_listening("Exim", address);
        Self { inbox, _process: process }
    }

    pub fn inbox(&self) -> &Maildir {
        &self.inbox
    }
}

fn configuration(folder: &Path, inbox: &Path, address: SocketAddr) -> String {
    let (certificate, key) = certificate(folder);
    let (at, inbox, certificate, key) = (folder.display(), inbox.display(), certificate.display(), key.display());
    let (ip, port) = (address.ip(), address.port());
    format!(
        "primary_hostname = exim.test\nspool_directory = {at}/spool\nlog_file_path = {at}/spool/%slog\n\
         local_interfaces = {ip}\ndaemon_smtp_ports = {port}\nacl_smtp_rcpt = take\nmessage_size_limit = 50M\n\
         tls_advertise_hosts = *\ntls_certificate = {certificate}\ntls_privatekey = {key}\nkeep_environment =\n\
         smtputf8_advertise_hosts = *\nsmtp_accept_max = 200\nsmtp_accept_max_per_connection = 1000\nsmtp_accept_queue_per_connection = 0\nhost_lookup =\n\
         rfc1413_query_timeout = 0s\ndeliver_drop_privilege = true\n\
         begin acl\ntake:\n  accept\n\
         begin routers\nall:\n  driver = accept\n  transport = inbox\n\
         begin transports\ninbox:\n  driver = appendfile\n  directory = {inbox}\n  maildir_format\n  \
         create_directory\n  envelope_to_add\n  return_path_add\n\
         begin retry\n* * F,1h,1m\n"
    )
}
