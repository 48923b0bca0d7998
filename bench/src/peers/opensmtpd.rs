//! OpenSMTPD as a relay; `filter-dkimsign` signs.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::kept::Kept;
use super::server::Running;
use super::site::{HOSTNAME, SELECTOR, Signing, Site, version_line};

/// The numbers of its accounts, which exist in its namespace only.
const ACCOUNTS: [(&str, u32); 2] = [("opensmtpd", 991), ("opensmtpq", 992)];

/// Sessions to the receiver at once.
const SESSIONS: u16 = 50;

pub(super) fn start(site: &Site) -> Result<Running> {
    let root = site.unpacked("opensmtpd")?;
    if let Some(signing) = &site.signing {
        site.unpacked("opensmtpd/usr/libexec/opensmtpd/filter-dkimsign")?;
        signing.give_key_to(ACCOUNTS[0].1)?;
    }
    site.make_folder("spool", 0o755, 0, 0)?;
    site.make_folder("spool/smtpd", 0o711, 0, 0)?;
    let file = site.write("configuration", &configuration(site))?;
    let mut script = site.accounts(&ACCOUNTS)?;
    script.push_str(&mounts(site, &root));
    script.push_str(&format!("exec '{}/usr/sbin/smtpd' -d -f '{}'", root.display(), file.display()));
    let environment = [("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu").display().to_string())];
    let mut opensmtpd = Kept::start("opensmtpd", &script, &site.folder, &environment)?;
    opensmtpd.wait_listening(site.listen)?;
    let version = version_line(Command::new(root.join("usr/sbin/smtpd")).arg("-h"), "OpenSMTPD")?;
    Ok(Running { version, processes: vec![opensmtpd] })
}

/// The folders that are compiled into it, in its own namespace; its queue is on the disk of all the others.
fn mounts(site: &Site, root: &Path) -> String {
    let (at, root) = (site.folder.display(), root.display());
    format!(
        "mount -t tmpfs tmpfs /usr/libexec\nmkdir /usr/libexec/opensmtpd\n\
         mount --bind '{root}/usr/libexec/opensmtpd' /usr/libexec/opensmtpd\nmount --bind '{at}/spool' /var/spool\n\
         mount -t tmpfs -o mode=755 tmpfs /var/lib\nmkdir -p /var/lib/opensmtpd/empty\n\
         mount -t tmpfs -o mode=755 tmpfs /run\n"
    )
}

fn configuration(site: &Site) -> String {
    let filter = site.signing.as_ref().map_or_else(String::new, filter);
    let filtered = if filter.is_empty() { "" } else { " filter \"sign\"" };
    // As it ships a session ends after 100 mails, the next one to a host begins 5 s later, and a host has 5 sessions. Each
    // takes some 45 ms a mail, whatever the CPU does, which looks like Nagle's algorithm against the receiver's delayed
    // acknowledgements: so it needs many of them. With more mails at hand for them (task-hiwat) it paused for 10 s.
    format!(
        "smtp max-message-size \"50M\"\nsmtp limit max-mails 100000000\nsmtp limit max-rcpt 1000\n\
         mta limit session-mail-max 100000000\nmta limit conn-delay-route 0\nmta limit conn-delay-relay 0\n\
         mta limit reconn-delay-route 0\nmta limit max-conn-per-host {SESSIONS}\n\
         mta limit max-conn-per-route {SESSIONS}\nmta limit max-conn-per-connector {SESSIONS}\n\
         {filter}\
         listen on {ip} port {port} hostname {HOSTNAME}{filtered}\n\
         action \"out\" relay host \"smtp://{sink}\" helo {HOSTNAME}\nmatch from any for any action \"out\"\n",
        ip = site.listen.ip(),
        port = site.listen.port(),
        sink = site.sink,
    )
}

fn filter(signing: &Signing) -> String {
    let domains: String = signing.domains.iter().map(|domain| format!(" -d {domain}")).collect();
    format!(
        "filter \"sign\" proc-exec \"filter-dkimsign -c relaxed/relaxed{domains} -s {SELECTOR} -k {}\"\n",
        signing.key.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::server::tests::site;

    #[test]
    fn all_goes_to_the_sink_and_is_signed_where_it_must_be() {
        let text = configuration(&site(false));
        assert!(text.contains("relay host \"smtp://127.77.1.1:2626\"") && !text.contains("filter"), "{text}");
        let text = configuration(&site(true));
        assert!(text.contains("-d sender0.test -d sender1.test -s s1 -k /site/dkim.pem\"\n"), "{text}");
        assert!(text.contains("port 2525 hostname peer.bench.test filter \"sign\"\n"), "{text}");
    }
}
