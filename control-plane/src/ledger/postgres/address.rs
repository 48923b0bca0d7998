//! Where a PostgreSQL server is, and how connections to it are protected.
//!
//! ```text
//! postgres://user@host:port/database?sslmode=verify-full&sslrootcert=FILE
//! postgres:///database?host=/run/postgresql&user=postrail
//! ```
//!
//! The form is PostgreSQL's own, with less choice: a connection is verified by certificate, or it is plain. It is plain on
//! this machine unless said otherwise, and elsewhere only where `sslmode=disable` says so.
//! Invariants worth naming: neither `Debug` nor an error shows the password.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::Tls;

/// See the module head.
#[derive(Clone)]
pub struct PostgresAddress {
    config: Config,
    tls: Option<Tls>,
    name: String,
}

/// Why an address was not understood.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("a ledger elsewhere is named as postgres://user@host/database")]
    Scheme,
    /// The library's own words could show what was given, password and all.
    #[error("this is no address of a PostgreSQL server; the form is postgres://user@host:port/database")]
    Malformed,
    #[error("it names no {what}; the form is postgres://user@host:port/database")]
    Missing { what: &'static str },
    #[error("the password is given twice, in the address and apart from it")]
    TwoPasswords,
    #[error(
        "sslmode={mode} is not offered, since it lets others between: say verify-full with sslrootcert=FILE, or disable"
    )]
    Mode { mode: String },
    #[error(
        "{host} is not on this machine: add sslmode=verify-full&sslrootcert=FILE with the certificate of its authority, or \
         sslmode=disable where the network between is trusted"
    )]
    Unprotected { host: String },
    #[error("sslmode=verify-full needs sslrootcert=FILE with the certificate of the server's authority")]
    NoAuthority,
    #[error("{} holds no certificate that can be read", path.display())]
    Authority { path: PathBuf },
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl PostgresAddress {
    /// Reads an address. `password` is one that stands elsewhere.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(url: &str, password: Option<&str>) -> Result<Self, AddressError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(AddressError::Scheme);
        }
        let Asked { url, mode, authority } = Asked::of(url)?;
        let mut config: Config = url.parse().map_err(|_| AddressError::Malformed)?;
        if config.get_hosts().is_empty() {
            return Err(AddressError::Missing { what: "host" });
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(AddressError::Missing { what: "database" });
        }
        if let Some(password) = password {
            if config.get_password().is_some() {
                return Err(AddressError::TwoPasswords);
            }
            config.password(password);
        }
        let elsewhere = config.get_hosts().iter().find(|host| !is_here(host));
        let tls = match (mode.as_deref(), elsewhere) {
            (Some("verify-full"), _) => Some(tls(authority.as_deref().ok_or(AddressError::NoAuthority)?)?),
            (Some("disable"), _) | (None, None) => None,
            (None, Some(host)) => return Err(AddressError::Unprotected { host: text(host) }),
            (Some(mode), _) => return Err(AddressError::Mode { mode: mode.to_owned() }),
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        // Of several hosts, the one that is no standby.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let name = name(&config);
        Ok(Self { config, tls, name })
    }

    /// Host, port and database, as logs and errors tell them.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresAddress").field(&self.name).finish()
    }
}

/// An address without what it says of TLS.
struct Asked {
    url: String,
    mode: Option<String>,
    authority: Option<PathBuf>,
}

impl Asked {
    fn of(url: &str) -> Result<Self, AddressError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut asked = Self { url: base.to_owned(), mode: None, authority: None };
        let mut separator = '?';
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(AddressError::Malformed)?;
            match key {
                "sslmode" => asked.mode = Some(value.to_owned()),
                "sslrootcert" => asked.authority = Some(PathBuf::from(unescaped(value)?)),
                _ => {
                    asked.url.push(separator);
                    asked.url.push_str(pair);
                    separator = '&';
                }
            }
        }
        Ok(asked)
    }
}

/// Text with `%` and two hexadecimal digits in place of some octets.
fn unescaped(text: &str) -> Result<String, AddressError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    octets.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(AddressError::Malformed)?;
        octets.push(u8::from_str_radix(digits, 16).map_err(|_| AddressError::Malformed)?);
        octets.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(octets).map_err(|_| AddressError::Malformed)
}

/// Whether what is sent to the host stays on this machine.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

fn text(host: &Host) -> String {
    match host {
        Host::Unix(path) => path.display().to_string(),
        Host::Tcp(name) => name.clone(),
    }
}

fn name(config: &Config) -> String {
    let ports = config.get_ports();
    let mut name = String::new();
    for (at, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        let separator = if at == 0 { "" } else { "," };
        name.push_str(&format!("{separator}{}:{port}", text(host)));
    }
    format!("{name}/{}", config.get_dbname().unwrap_or_default())
}

fn tls(authority: &Path) -> Result<Tls, AddressError> {
    let unread = || AddressError::Authority { path: authority.to_owned() };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority).map_err(|_| unread())? {
        roots.add(certificate.map_err(|_| unread())?).map_err(|_| unread())?;
    }
    if roots.is_empty() {
        return Err(unread());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AddressError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls(Arc::new(config)))
}

/// Of PostgreSQL.
const PORT: u16 = 5_432;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let error = PostgresAddress::parse(url, None).expect_err(url);
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        error.to_string()
    }

    #[test]
    fn an_address_is_told_without_its_password() {
        let address = PostgresAddress::parse("postgres://postrail:secret@127.0.0.1:5433/ledger", None).unwrap();
        assert_eq!(address.name(), "127.0.0.1:5433/ledger");
        assert_eq!(address.config().get_password(), Some(&b"secret"[..]));
        assert!(!format!("{address:?} {:?}", address.config()).contains("secret"));
        let apart = PostgresAddress::parse("postgresql://postrail@localhost/ledger", Some("secret")).unwrap();
        assert_eq!(apart.config().get_password(), Some(&b"secret"[..]));
        let twice = PostgresAddress::parse("postgres://postrail:secret@localhost/ledger", Some("secret"));
        assert!(matches!(twice, Err(AddressError::TwoPasswords)));
    }

    #[test]
    fn a_connection_that_leaves_the_machine_is_verified_or_said_to_be_plain() {
        for here in ["127.0.0.1", "localhost", "[::1]", "%2Frun%2Fpostgresql"] {
            let address = PostgresAddress::parse(&format!("postgres://postrail@{here}/ledger"), None).unwrap();
            assert_eq!(address.config().get_ssl_mode(), SslMode::Disable, "{here}");
        }
        assert!(refused("postgres://postrail:secret@db.example/ledger").contains("db.example is not on this machine"));
        assert!(refused("postgres://u:secret@localhost,db.example/ledger").contains("db.example"));
        let plain = PostgresAddress::parse("postgres://postrail@db.example/ledger?sslmode=disable", None).unwrap();
        assert_eq!(plain.config().get_ssl_mode(), SslMode::Disable);
        for mode in ["allow", "prefer", "require", "verify-ca", "no"] {
            let url = format!("postgres://u:secret@db.example/ledger?sslmode={mode}");
            assert!(refused(&url).contains("say verify-full"), "{mode}");
        }
    }

    #[test]
    fn verification_needs_an_authority_that_can_be_read() {
        let asked = "postgres://u:secret@db.example/ledger?sslmode=verify-full";
        assert!(refused(asked).contains("needs sslrootcert"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("with space.pem");
        let escaped = path.display().to_string().replace(' ', "%20");
        for content in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let said = refused(&format!("{asked}&sslrootcert={escaped}&connect_timeout=3"));
            assert!(said.contains("with space.pem holds no certificate"), "{said}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        let table = [
            ("mysql://u:secret@h/d", "is named as postgres://"),
            ("secret", "is named as postgres://"),
            ("postgres://u:secret@h:port/d", "is no address"),
            ("postgres://u:secret@localhost/d?nonsense=secret", "is no address"),
            ("postgres://u:secret@localhost/d?sslmode", "is no address"),
            ("postgres://u:secret@localhost/d?sslrootcert=%2", "is no address"),
            ("postgres:///d", "names no host"),
            ("postgres://u:secret@localhost", "names no database"),
            ("postgres://u:secret@localhost/", "names no database"),
        ];
        for (url, words) in table {
            let said = refused(url);
            assert!(said.contains(words), "{url}: {said}");
        }
    }
}
