//! Who is who in a fleet: each process shows a certificate that it made for itself.
//!
//! ```text
//! master key --HMAC--> key of the authority (Ed25519) --signs--> certificate of this process (P-256, for a week)
//! ```
//!
//! Whoever has the master key can make every certificate of the fleet, and nobody else any; the authority needs no file
//! and no store, so hosts know each other while etcd is away. Names are `control-plane.<cluster>.postrail.internal`,
//! `data-plane.<cluster>.postrail.internal` and `<host>.data-plane.<cluster>.postrail.internal`, and beside them what
//! people and monitoring reach it by.
//!
//! Invariants worth naming: private keys are in memory only; a certificate is renewed when it is shown and older than a
//! day, so nothing has to be restarted or to run for it; a peer's certificate is checked for authority, time and name on
//! both sides, and no session is resumed past that check.

mod verifier;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use postrail_schema::allocation::HostName;
use postrail_schema::sealed::{MasterKey, MasterKeys};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType, SerialNumber, date_time_ymd,
};
use reqwest::Url;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use zeroize::Zeroizing;

use verifier::{AnswersTo, AsksAs};

/// What a process of a fleet is known by.
#[derive(Clone, Debug)]
pub struct FleetFacts {
    pub cluster: String,
    /// Whether a control plane runs in it.
    pub is_control_plane: bool,
    /// The name of the host whose data plane runs in it.
    pub data_plane: Option<HostName>,
    /// The name by which people know the machine.
    pub hostname: String,
    /// Where it listens beyond loopback.
    pub addresses: Vec<IpAddr>,
}

/// A name that is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FleetName {
    /// Any control plane.
    ControlPlane,
    /// Any data plane.
    DataPlane,
    /// The data plane of one host.
    Host(HostName),
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot make the certificate of this host")]
    Make(#[from] rcgen::Error),
    #[error("cannot use the certificate of this host")]
    Use(#[from] rustls::Error),
    #[error("cannot check certificates of the fleet: {0}")]
    Check(String),
}

/// A host is not spoken to, since whoever is on the way would read what is said.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is not https: it may be of an earlier version; bring it to this one")]
pub struct PlainText(Url);

/// See the module head. Cheap to clone.
#[derive(Clone)]
pub struct FleetIdentity(Arc<Inner>);

struct Inner {
    authority: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    pem: String,
    facts: FleetFacts,
    issued: Mutex<Option<Issued>>,
}

#[derive(Clone)]
struct Issued {
    key: Arc<CertifiedKey>,
    at: SystemTime,
}

impl FleetIdentity {
    /// Certificates of it are of the current master key's authority; those of all its master keys are known.
    ///
    /// # Errors
    /// The names in `facts` cannot be those of a certificate.
    pub fn new(masters: &MasterKeys, facts: FleetFacts) -> Result<Self, IdentityError> {
        let (mut roots, mut pem) = (RootCertStore::empty(), String::new());
        for master in masters.all() {
            let (parameters, key) = authority(master)?;
            let certificate = parameters.self_signed(&key)?;
            roots.add(certificate.der().clone())?;
            pem.push_str(&certificate.pem());
        }
        let (parameters, key) = authority(&masters.current)?;
        let authority = Issuer::new(parameters, key);
        let inner = Inner { authority, roots: Arc::new(roots), pem, facts, issued: Mutex::new(None) };
        inner.issue(SystemTime::now())?;
        Ok(Self(Arc::new(inner)))
    }

    /// The certificates of the authorities, PEM; they are no secret.
    pub fn authorities(&self) -> &str {
        &self.0.pem
    }

    /// For a listener, which asks who connects for a certificate: where one is shown, it is of one of `peers`. Which of
    /// them it is, says its name: see [`server_name`](Self::server_name).
    ///
    /// # Errors
    /// What is to be checked cannot be.
    pub fn server(&self, peers: &[FleetName]) -> Result<Arc<ServerConfig>, IdentityError> {
        let checks = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.0.roots), provider());
        let checks = checks.allow_unauthenticated().build().map_err(|error| IdentityError::Check(error.to_string()))?;
        let verifier =
            AsksAs { checks, names: peers.iter().map(|peer| self.server_name(peer)).collect::<Result<_, _>>()? };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let mut config = builder.with_client_cert_verifier(Arc::new(verifier)).with_cert_resolver(self.resolver());
        // A resumed session would go on with a certificate that nobody looks at again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For a client of `peer`, whatever the address that it is reached by.
    ///
    /// # Errors
    /// What is to be checked cannot be.
    pub fn client(&self, peer: &FleetName) -> Result<ClientConfig, IdentityError> {
        let checks = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.0.roots), provider());
        let checks = checks.build().map_err(|error| IdentityError::Check(error.to_string()))?;
        let verifier = AnswersTo { checks, name: self.server_name(peer)? };
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = builder.with_client_cert_resolver(self.resolver());
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// The name that a certificate has to have to be that of `name`.
    ///
    /// # Errors
    /// The cluster's name is part of no name of a certificate.
    pub fn server_name(&self, name: &FleetName) -> Result<ServerName<'static>, IdentityError> {
        let name = dns_name(name, &self.0.facts.cluster);
        ServerName::try_from(name).map_err(|error| IdentityError::Check(error.to_string()))
    }

    fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver(Arc::clone(&self.0)))
    }
}

impl fmt::Debug for FleetIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FleetIdentity").field(&self.0.facts).finish()
    }
}

impl Inner {
    /// The certificate of now: the last one, unless it is older than a day, or of a time that has not come.
    fn issue(&self, now: SystemTime) -> Result<Arc<CertifiedKey>, IdentityError> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = issued.as_ref().filter(|last| last.is_good(now)) {
            return Ok(Arc::clone(&last.key));
        }
        let key = Arc::new(self.make(now)?);
        *issued = Some(Issued { key: Arc::clone(&key), at: now });
        Ok(key)
    }

    fn make(&self, now: SystemTime) -> Result<CertifiedKey, IdentityError> {
        let FleetFacts { cluster, is_control_plane, data_plane, hostname, addresses } = &self.facts;
        let mut names = Vec::new();
        if *is_control_plane {
            names.push(dns_name(&FleetName::ControlPlane, cluster));
        }
        if let Some(host) = data_plane {
            names.extend([FleetName::Host(host.clone()), FleetName::DataPlane].map(|name| dns_name(&name, cluster)));
        }
        let common = names.first().cloned().unwrap_or_default();
        let dns = names.iter().map(|name| Ia5String::try_from(name.as_str()).map(SanType::DnsName));
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = dns.collect::<Result<_, _>>()?;
        // A name beyond ASCII is left out: nothing of the fleet goes by it.
        parameters.subject_alt_names.extend(Ia5String::try_from(hostname.as_str()).ok().map(SanType::DnsName));
        parameters.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, common);
        (parameters.not_before, parameters.not_after) = ((now - EARLY).into(), (now + TERM).into());
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.authority)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = provider().key_provider.load_private_key(private)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
    }
}

impl Issued {
    fn is_good(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.at).unwrap_or_else(|ahead| ahead.duration());
        age < RENEWAL
    }
}

/// Shows the certificate of now.
struct Resolver(Arc<Inner>);

impl Resolver {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let issued = self.0.issue(SystemTime::now());
        issued.inspect_err(|error| tracing::error!(error = error as &dyn std::error::Error, "no certificate")).ok()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// The authority that follows from a master key: the same certificate and key wherever it is made.
fn authority(master: &MasterKey) -> Result<(CertificateParams, KeyPair), IdentityError> {
    let mut pkcs8 = Zeroizing::new(ED25519_PKCS8.to_vec());
    pkcs8.extend_from_slice(master.fleet_authority().as_slice());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ED25519)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, format!("Postrail fleet {}", master.id()));
    parameters.serial_number = Some(SerialNumber::from_slice(&[1]));
    (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok((parameters, key))
}

fn dns_name(name: &FleetName, cluster: &str) -> String {
    match name {
        FleetName::ControlPlane => format!("control-plane.{cluster}.{ZONE}"),
        FleetName::DataPlane => format!("data-plane.{cluster}.{ZONE}"),
        FleetName::Host(host) => format!("{host}.data-plane.{cluster}.{ZONE}"),
    }
}

/// Whether hosts of a fleet speak TLS at an address: beyond loopback they always do.
///
/// # Errors
/// It is plain HTTP beyond loopback.
pub fn speaks_tls(at: &Url) -> Result<bool, PlainText> {
    let host = at.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_near = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match at.scheme() {
        "https" => Ok(true),
        "http" if is_near => Ok(false),
        _ => Err(PlainText(at.clone())),
    }
}

/// What of certificates kept two hosts apart, if that is what `error` comes from.
pub fn tls_reason(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let causes = std::iter::successors(Some(error), |cause| match cause.downcast_ref::<std::io::Error>() {
        // An I/O error gives its content's cause, not its content.
        Some(error) => error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
        None => cause.source(),
    });
    causes.filter_map(|cause| cause.downcast_ref::<rustls::Error>()).next().map(|error| match error {
        rustls::Error::InvalidCertificate(_) => format!("its certificate is refused: {error}"),
        rustls::Error::AlertReceived(_) => format!("it refuses our certificate, its log says why: {error}"),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        other => format!("no TLS with it: {other}"),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// `.internal` is nobody's in DNS; these names are only in certificates.
const ZONE: &str = "postrail.internal";
/// How long a certificate is good for, from a day before it was made: clocks may differ by so much.
const TERM: Duration = Duration::from_secs(7 * DAY);
const EARLY: Duration = Duration::from_secs(DAY);
/// How old it is when it is replaced.
const RENEWAL: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 60 * 60;
/// What stands before the 32 octets of an Ed25519 key in PKCS #8 (RFC 8410).
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

#[cfg(test)]
mod tests;
