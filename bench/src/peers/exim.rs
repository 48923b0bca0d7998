//! Exim as a relay: each mail is delivered as it comes in, by a process of its own, as Exim ships; Exim itself signs.

use std::fs;

use anyhow::{Context, Result};

use super::kept::Kept;
use super::server::Running;
use super::site::{HOSTNAME, SELECTOR, Site};

/// The number of the account that Exim runs under, which exists in its namespace only.
const EXIM: u32 = 990;

pub(super) fn start(site: &Site) -> Result<Running> {
    let program = site.unpacked("exim4")?.join("usr/sbin/exim4");
    site.make_folder("spool", 0o750, EXIM, EXIM)?;
    let file = site.write("configuration", &configuration(site))?;
    if let Some(signing) = &site.signing {
        signing.give_key_to(EXIM)?;
    }
    let mut script = site.accounts(&[("Debian-exim", EXIM)])?;
    script.push_str(&format!("exec '{}' -bdf -q30s -C '{}'", program.display(), file.display()));
    let mut exim = Kept::start("exim", &script, &site.folder, &[])?;
    exim.wait_listening(site.listen)?;
    // It tells its version to its own accounts only, and to its log.
    let log = fs::read_to_string(site.folder.join("spool/mainlog")).context("cannot read Exim's log")?;
    let number = log.split_once("exim ").and_then(|(_, rest)| rest.split_whitespace().next());
    let version = format!("Exim {}", number.unwrap_or("of no version"));
    Ok(Running { version, processes: vec![exim] })
}

fn configuration(site: &Site) -> String {
    let (at, sink) = (site.folder.display(), site.sink);
    let signing = site.signing.as_ref().map_or_else(String::new, |signing| {
        format!(
            "  dkim_domain = ${{lc:$sender_address_domain}}\n  dkim_selector = {SELECTOR}\n  dkim_private_key = {}\n  \
             dkim_canon = relaxed\n  dkim_hash = sha256\n",
            signing.key.display()
        )
    });
    format!(
        "primary_hostname = {HOSTNAME}\nspool_directory = {at}/spool\nlog_file_path = {at}/spool/%slog\n\
         local_interfaces = {ip}\ndaemon_smtp_ports = {port}\nacl_smtp_rcpt = take\nmessage_size_limit = 50M\n\
         tls_advertise_hosts =\nkeep_environment =\ndeliver_drop_privilege = true\nhost_lookup =\nrfc1413_query_timeout = 0s\n\
         # What its specification says of speed and of busy hosts.\n\
         split_spool_directory = true\nmessage_logs = false\nqueue_run_max = 20\nremote_max_parallel = 20\n\
         smtp_accept_max = 0\nsmtp_accept_max_per_connection = 0\nsmtp_accept_queue_per_connection = 0\n\
         smtp_connect_backlog = 128\n\
         begin acl\ntake:\n  accept hosts = 127.0.0.0/8\n  deny\n\
         begin routers\nrelay:\n  driver = manualroute\n  transport = out\n  route_list = * {sink_ip}::{sink_port}\n  \
         self = send\n  no_more\n\
         begin transports\nout:\n  driver = smtp\n  hosts_avoid_tls = *\n  connection_max_messages = 500\n{signing}\
         begin retry\n* * F,1h,1m\n",
        ip = site.listen.ip(),
        port = site.listen.port(),
        sink_ip = sink.ip(),
        sink_port = sink.port(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::server::tests::site;

    #[test]
    fn all_goes_to_the_sink_and_is_signed_where_it_must_be() {
        let text = configuration(&site(false));
        assert!(text.contains("route_list = * 127.77.1.1::2626\n") && !text.contains("dkim"), "{text}");
        let text = configuration(&site(true));
        assert!(text.contains("dkim_private_key = /site/dkim.pem\n  dkim_canon"), "{text}");
    }
}
