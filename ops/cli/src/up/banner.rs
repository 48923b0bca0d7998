//! What `up` prints once it runs: where it listens, and at the first start what is needed to send the first mail.
//!
//! The secret is printed to standard output at the first start and never again; it is in no log.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

/// A TXT record to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Txt {
    pub(crate) name: String,
    /// As a zone file has it: strings in quotes.
    pub(crate) zone_value: String,
}

/// What the first start made.
#[derive(Clone, Debug)]
pub(crate) struct FirstStart {
    pub(crate) tenant: String,
    pub(crate) username: String,
    pub(crate) secret: String,
    pub(crate) domain: String,
    pub(crate) records: Vec<Txt>,
}

/// All that is printed.
pub(crate) struct Banner<'a> {
    pub(crate) data: &'a Path,
    /// `None`: another host of the cluster has it.
    pub(crate) token_file: Option<&'a Path>,
    /// `None`: no data plane runs here.
    pub(crate) shards: Option<u16>,
    pub(crate) smtp: &'a [SocketAddr],
    pub(crate) smtps: &'a [SocketAddr],
    pub(crate) rest: &'a [SocketAddr],
    /// `None`: no control plane runs here.
    pub(crate) api: Option<SocketAddr>,
    /// `None`: no data plane runs here.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) rest_scheme: &'static str,
    /// `None`: the state of an earlier start goes on.
    pub(crate) first: Option<&'a FirstStart>,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goes_on = if self.first.is_none() { "continues" } else { "is running" };
        let what = match self.shards {
            None => "a control plane".to_owned(),
            Some(1) => "1 shard".to_owned(),
            Some(shards) => format!("{shards} shards"),
        };
        writeln!(f, "Postrail {goes_on}: {what}, data in {}\n", self.data.display())?;
        for at in self.smtp {
            writeln!(f, "  SMTP submission   {at} (STARTTLS)")?;
        }
        for at in self.smtps {
            writeln!(f, "  SMTP submission   {at} (TLS from the start)")?;
        }
        for at in self.rest {
            writeln!(f, "  REST submission   {}://{at}/v2/jobs", self.rest_scheme)?;
        }
        if let Some(api) = self.api {
            writeln!(f, "  control API       {}/v2", url(api))?;
        }
        if let Some(admin) = self.admin {
            writeln!(f, "  metrics, health   {}/metrics", url(admin))?;
        }
        if self.api.is_some() {
            match self.token_file {
                Some(path) => writeln!(f, "  operator's token  {}", path.display())?,
                None => writeln!(f, "  operator's token  that of the first control plane of this cluster")?,
            }
        }
        if let Some(first) = self.first {
            self.introduce(first, f)?;
        }
        Ok(())
    }
}

impl Banner<'_> {
    fn introduce(&self, first: &FirstStart, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nThe first credential. Its secret is shown this once:\n")?;
        writeln!(f, "  tenant    {}\n  username  {}\n  secret    {}", first.tenant, first.username, first.secret)?;
        writeln!(f, "\nPublish for {}, so that receivers can verify its signatures:\n", first.domain)?;
        for record in &first.records {
            writeln!(f, "  {}. IN TXT {}", record.name.trim_end_matches('.'), record.zone_value)?;
        }
        let (user, secret, domain) = (&first.username, &first.secret, &first.domain);
        writeln!(f, "\nThen see whether all is right:  postrail domain check {domain}")?;
        if self.shards.is_none() {
            return writeln!(
                f,
                "\nMail is taken by hosts with a data plane: start one by  postrail up --role data-plane"
            );
        }
        writeln!(f, "\nSend a mail (the recipient is yours to change):\n")?;
        if let Some(smtp) = self.smtp.first() {
            writeln!(
                f,
                "  swaks --server {} --port {} --tls --auth PLAIN --auth-user {user} --auth-password {secret} --from hello@{domain} --to you@example.net",
                smtp.ip(),
                smtp.port()
            )?;
        }
        if let Some(rest) = self.rest.first() {
            writeln!(f, "  {}", curl_line(self.rest_scheme, *rest, first))?;
        }
        Ok(())
    }
}

/// Where a listener is that speaks TLS beyond loopback.
pub(crate) fn url(at: SocketAddr) -> String {
    let scheme = if at.ip().is_loopback() { "http" } else { "https" };
    format!("{scheme}://{at}")
}

fn curl_line(scheme: &str, rest: SocketAddr, first: &FirstStart) -> String {
    let job = serde_json::json!({
        "subject": {"content": "Hello"},
        "body": {"contentType": "text/plain", "content": "It works."},
        "recipients": [{"mail": {"to": [{"email": "you@example.net"}]}}],
        "mail": {"from": {"email": format!("hello@{}", first.domain)}, "mimeFrom": {"email": format!("hello@{}", first.domain)}},
    });
    let insecure = if scheme == "https" { "-k " } else { "" };
    format!(
        "curl {insecure}-u {}:{} -H 'Content-Type: application/json' {scheme}://{rest}/v2/jobs -d '{job}'",
        first.username, first.secret
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> FirstStart {
        FirstStart {
            tenant: "default".into(),
            username: "default".into(),
            secret: "s3cr3t".into(),
            domain: "example.org".into(),
            records: vec![Txt { name: "s1._domainkey.example.org".into(), zone_value: "\"v=DKIM1; p=AAAA\"".into() }],
        }
    }

    const fn at(port: u16) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
    }

    fn both(first: Option<&FirstStart>) -> Banner<'_> {
        Banner {
            data: Path::new("/d"),
            token_file: Some(Path::new("/d/operator.token")),
            shards: Some(2),
            smtp: const { &[at(2525)] },
            smtps: const { &[at(2465)] },
            rest: const { &[at(8080)] },
            api: Some(at(8081)),
            admin: Some(at(8082)),
            rest_scheme: "http",
            first,
        }
    }

    fn text(first: Option<&FirstStart>) -> String {
        both(first).to_string()
    }

    #[test]
    fn a_control_plane_alone_speaks_of_no_shards_and_of_no_mail_that_it_would_take() {
        let first = first();
        let alone = |first| Banner { shards: None, smtp: &[], smtps: &[], rest: &[], admin: None, ..both(first) };
        let text = alone(Some(&first)).to_string();
        assert!(text.starts_with("Postrail is running: a control plane, data in /d\n"), "{text}");
        assert!(text.contains("secret    s3cr3t") && text.contains("postrail up --role data-plane"), "{text}");
        assert!(!text.contains("Send a mail") && !text.contains("shard"), "{text}");
        assert!(alone(None).to_string().starts_with("Postrail continues: a control plane, data in /d\n"));
    }

    #[test]
    fn the_first_start_shows_what_is_needed_to_send() {
        let text = text(Some(&first()));
        for part in [
            "--server 127.0.0.1 --port 2525 --tls --auth PLAIN --auth-user default --auth-password s3cr3t",
            "curl -u default:s3cr3t -H 'Content-Type: application/json' http://127.0.0.1:8080/v2/jobs -d '{",
            "s1._domainkey.example.org. IN TXT \"v=DKIM1; p=AAAA",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    #[test]
    fn a_later_start_shows_no_secret() {
        let text = text(None);
        assert!(text.starts_with("Postrail continues") && !text.contains("secret"), "{text}");
    }
}
