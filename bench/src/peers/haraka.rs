//! Haraka as a relay: the plugins that relaying and signing need and no others, one worker a CPU.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::kept::Kept;
use super::server::Running;
use super::site::{HOSTNAME, SELECTOR, Signing, Site, version_line};

pub(super) fn start(site: &Site) -> Result<Running> {
    let program = site.unpacked("haraka/node_modules/Haraka/bin/haraka")?;
    site.make_folder("queue", 0o755, 0, 0)?;
    for (name, text) in files(site) {
        site.write(&format!("config/{name}"), &text)?;
    }
    // Haraka has no defaults of its own for this one: its package's file is taken as it is.
    let connections = site.unpacked("haraka/node_modules/Haraka/config/connection.ini")?;
    fs::copy(connections, site.folder.join("config/connection.ini")).context("cannot copy connection.ini")?;
    if let Some(signing) = &site.signing {
        write_keys(site, signing)?;
    }
    let node = node(site);
    let script = format!("exec '{}' '{}' -c '{}'", node.display(), program.display(), site.folder.display());
    let mut haraka = Kept::start("haraka", &script, &site.folder, &[])?;
    haraka.wait_listening(site.listen)?;
    let manifest = site.unpacked("haraka/node_modules/Haraka/package.json")?;
    let manifest = fs::read_to_string(&manifest).context("cannot read Haraka's package.json")?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).context("Haraka's package.json")?;
    let node = version_line(Command::new(node).arg("--version"), "v")?;
    let version = manifest["version"].as_str().unwrap_or("of no version");
    Ok(Running { version: format!("Haraka {version}, Node.js {node}"), processes: vec![haraka] })
}

/// The Node.js that was installed with it, else the system's.
fn node(site: &Site) -> PathBuf {
    let own = format!(
        "haraka/node_modules/node-linux-{}/bin/node",
        if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" }
    );
    site.unpacked(&own).unwrap_or_else(|_| "node".into())
}

/// The files of its configuration: name and text.
fn files(site: &Site) -> Vec<(&'static str, String)> {
    let plugins = if site.signing.is_some() { "relay\ndkim\n" } else { "relay\n" };
    let mut files = vec![
        ("me", format!("{HOSTNAME}\n")),
        ("plugins", plugins.to_owned()),
        ("smtp.ini", format!("listen={}\nnodes=cpus\n", site.listen)),
        ("log.ini", "[main]\nlevel=notice\n".to_owned()),
        ("relay.ini", "[relay]\nacl=true\nforce_routing=true\n".to_owned()),
        ("relay_acl_allow", "127.0.0.0/8\n".to_owned()),
        (
            "relay_dest_domains.ini",
            format!("[domains]\nany = {{ \"action\": \"continue\", \"nexthop\": \"{}\" }}\n", site.sink),
        ),
        ("outbound.ini", "concurrency_max=100\nlocal_mx_ok=true\nenable_tls=false\n".to_owned()),
    ];
    if site.signing.is_some() {
        let text = "[sign]\nenabled=true\nheaders=From, Sender, Reply-To, Subject, Date, Message-ID, To, Cc, MIME-Version, \
                    Content-Type\n[canon]\nbody=relaxed\n[verify]\nenabled=false\n";
        files.push(("dkim.ini", text.to_owned()));
    }
    files
}

fn write_keys(site: &Site, signing: &Signing) -> Result<()> {
    let key = fs::read_to_string(&signing.key).context("cannot read the DKIM key")?;
    for domain in &signing.domains {
        site.write(&format!("config/dkim/{domain}/private"), &key)?;
        site.write(&format!("config/dkim/{domain}/selector"), SELECTOR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::server::tests::site;

    #[test]
    fn all_goes_to_the_sink_and_is_signed_where_it_must_be() {
        let text =
            |signs| files(&site(signs)).into_iter().map(|(name, text)| format!("{name}: {text}")).collect::<String>();
        assert!(text(false).contains("\"nexthop\": \"127.77.1.1:2626\"") && !text(false).contains("dkim"));
        assert!(text(true).contains("plugins: relay\ndkim\n") && text(true).contains("dkim.ini: [sign]\nenabled=true"));
    }
}
