//! Postfix as a relay, tuned as its TUNING_README says; OpenDKIM beside it where mail is signed.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::kept::Kept;
use super::server::Running;
use super::site::{HOSTNAME, SELECTOR, Signing, Site, version_line};

/// Debian's `daemon` and `mail`: an owner of the queue, and a group that nobody else here shares.
const OWNER: u32 = 1;
const GROUP: u32 = 8;

/// Folders of the queue that belong to the owner.
const QUEUE: [&str; 11] =
    ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"];

const MASTER: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

pub(super) fn start(site: &Site) -> Result<Running> {
    let root = site.unpacked("postfix")?;
    let libraries = root.join("usr/lib/postfix");
    make_queue(site)?;
    let milter = match &site.signing {
        Some(signing) => Some(opendkim(site, signing)?),
        None => None,
    };
    site.write("etc/main.cf", &main_cf(site, &root))?;
    site.write("etc/master.cf", &format!("{} inet n - n - - smtpd\n{MASTER}", site.listen))?;
    let script =
        format!("exec '{}' -d -c '{}'", libraries.join("sbin/master").display(), site.folder.join("etc").display());
    let environment = [("LD_LIBRARY_PATH", libraries.display().to_string())];
    let mut postfix = Kept::start("postfix", &script, &site.folder, &environment)?;
    postfix.wait_listening(site.listen)?;
    let mut version = Command::new(root.join("usr/sbin/postconf"));
    version.args(["-d", "mail_version"]).env("LD_LIBRARY_PATH", &libraries);
    let version = version_line(&mut version, "=")?.trim_start_matches(['=', ' ']).to_owned();
    let (mut processes, mut version) = (vec![postfix], format!("Postfix {version}"));
    if let Some((opendkim, its_version)) = milter {
        processes.push(opendkim);
        version = format!("{version}, {its_version}");
    }
    Ok(Running { version, processes })
}

fn make_queue(site: &Site) -> Result<()> {
    site.make_folder("data", 0o700, OWNER, OWNER)?;
    site.make_folder("queue", 0o755, 0, 0)?;
    for name in QUEUE {
        site.make_folder(&format!("queue/{name}"), 0o700, OWNER, 0)?;
    }
    site.make_folder("queue/pid", 0o755, 0, 0)?;
    site.make_folder("queue/maildrop", 0o730, OWNER, GROUP)?;
    site.make_folder("queue/public", 0o710, OWNER, GROUP)?;
    Ok(())
}

fn main_cf(site: &Site, root: &Path) -> String {
    let (at, root, sink) =
        (site.folder.display(), root.display(), format!("[{}]:{}", site.sink.ip(), site.sink.port()));
    let mut text = format!(
        "# Where things are, and who may send.\n\
         compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
         daemon_directory = {root}/usr/lib/postfix/sbin\ncommand_directory = {root}/usr/sbin\n\
         shlib_directory = {root}/usr/lib/postfix\nmeta_directory = {root}/etc/postfix\n\
         import_environment = LD_LIBRARY_PATH MAIL_CONFIG TZ PATH\nmail_owner = daemon\nsetgid_group = mail\n\
         default_privs = nobody\nmyhostname = {HOSTNAME}\nmydestination =\ninet_protocols = ipv4\n\
         mynetworks = 127.0.0.0/8\nalias_maps =\nlocal_recipient_maps =\nmaillog_file = {at}/log\n\
         maillog_file_prefixes = {at}\nmessage_size_limit = 52428800\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
         # Everything goes to one host, without a look at DNS.\n\
         relayhost = {sink}\ndisable_dns_lookups = yes\n\
         # What TUNING_README advises for speed.\n\
         smtpd_peername_lookup = no\nin_flow_delay = 0\ndefault_process_limit = 200\n\
         qmgr_message_active_limit = 50000\nqmgr_message_recipient_limit = 50000\n\
         smtp_destination_concurrency_limit = 50\ninitial_destination_concurrency = 20\n\
         smtp_connection_cache_on_demand = yes\nsmtp_connection_cache_destinations = {sink}\n\
         smtpd_client_connection_count_limit = 0\nsmtpd_client_event_limit_exceptions = static:all\n"
    );
    if site.signing.is_some() {
        text.push_str(&format!(
            "# OpenDKIM signs.\nsmtpd_milters = unix:{at}/opendkim.socket\nmilter_default_action = tempfail\n"
        ));
    }
    text
}

/// Starts OpenDKIM as a signer.
fn opendkim(site: &Site, signing: &Signing) -> Result<(Kept, String)> {
    let file = site.write("opendkim.conf", &opendkim_conf(site, signing))?;
    let version = version_line(Command::new("opendkim").arg("-V"), "OpenDKIM");
    let version = version.map_err(|error| error.context("OpenDKIM: run ops/bench-peers"))?;
    let socket = site.folder.join("opendkim.socket");
    let script = format!("exec opendkim -f -x '{}'", file.display());
    let mut kept = Kept::start("opendkim", &script, &site.folder, &[])?;
    kept.wait("make its socket", || socket.exists())?;
    Ok((kept, version))
}

fn opendkim_conf(site: &Site, signing: &Signing) -> String {
    let (at, domains, key) = (site.folder.display(), signing.domains.join(","), signing.key.display());
    format!(
        "Mode s\nSyslog no\nUMask 000\nSocket local:{at}/opendkim.socket\nDomain {domains}\nSelector {SELECTOR}\n\
         KeyFile {key}\nRequireSafeKeys no\nCanonicalization relaxed/relaxed\n\
         SignatureAlgorithm rsa-sha256\nOversignHeaders From\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::server::tests::site;

    #[test]
    fn all_goes_to_the_sink_and_durability_is_as_shipped() {
        let text = main_cf(&site(false), Path::new("/p"));
        assert!(text.contains("\nrelayhost = [127.77.1.1]:2626\n") && !text.contains("milter"), "{text}");
        assert!(!text.contains("fsync") && !text.contains("sync"), "{text}");
        assert!(text.lines().all(|line| line.starts_with('#') || line.contains('=')), "{text}");
    }

    #[test]
    fn the_signer_knows_domain_key_and_form() {
        let site = site(true);
        assert!(main_cf(&site, Path::new("/p")).contains("smtpd_milters = unix:/site/opendkim.socket\n"));
        let signing = site.signing.as_ref().expect("it signs");
        let text = opendkim_conf(&site, signing);
        assert!(
            text.contains("Domain sender0.test,sender1.test\n") && text.contains("KeyFile /site/dkim.pem\n"),
            "{text}"
        );
    }
}
