//! TLS: the server's identity, the clients' policies, and a stream that may be upgraded.
//!
//! [`MaybeTls`] is plain first and TLS after STARTTLS, or at once on a TLS listener. A client looks at
//! the certificate or does not, and takes TLS 1.2 or does not: one configuration of each, because sessions are resumed within
//! one configuration only. *Unverified* encrypts whoever answers (RFC 7435: better than plaintext, no worse), *verified* wants
//! a certificate that leads to an authority of the system, or of the operator, and names the host.
//!
//! Invariants worth naming:
//! - what was written before an upgrade is flushed before the first octet of the handshake;
//! - a session that was not verified is never resumed as one that was;
//! - private keys are in files of mode 0600 and in memory, nowhere else.
//!
//! Deliberately absent: octets that a peer sent in plaintext behind its STARTTLS. They are the reader's to refuse or
//! drop (RFC 3207 section 4.2); a handshake never sees them. DANE and MTA-STS are decided in `egress`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_rustls::{TlsAcceptor, TlsConnector, client, server};
use futures_util::AsyncWriteExt;
use futures_util::io::{AsyncRead, AsyncWrite};
use postrail_core::egress::TlsVersion;
use postrail_core::mail::{Domain, TlsFacts};
use postrail_schema::host::AuthoritiesHash;
use postrail_schema::limits::{RECEIVER_AUTHORITIES_MAX, TLS_SESSIONS_MAX};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

/// Where Debian and its like keep the roots of the web.
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why an identity or a policy cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} has no certificate, or a malformed one")]
    NoCertificate { path: PathBuf },
    #[error("{path} has no private key, or a malformed one")]
    NoKey { path: PathBuf },
    #[error("certificate {number} of {path} cannot be an authority's")]
    Authority { path: PathBuf, number: usize, source: rustls::Error },
    #[error("{path} has {found} certificates, at most {RECEIVER_AUTHORITIES_MAX} authorities are taken")]
    TooManyAuthorities { path: PathBuf, found: usize },
    #[error("cannot make a self-signed certificate")]
    Make(#[source] rcgen::Error),
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// A certificate chain with its private key.
pub struct ServerIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ServerIdentity {
    /// Reads a chain (leaf first) and a key, both PEM; they may be in one file.
    ///
    /// # Errors
    /// Which file cannot be read, or has not what it should.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let certificates = certificates_of(chain)?;
        let Ok(private) = PrivateKeyDer::from_pem_slice(&read(key)?) else {
            return Err(TlsError::NoKey { path: key.to_owned() });
        };
        Ok(Self { chain: certificates, key: private })
    }

    /// The self-signed identity of `host` kept in `folder`; made there (mode 0600) the first time.
    ///
    /// # Errors
    /// The file exists and is not readable, or it cannot be made.
    pub fn self_signed(folder: &Path, host: &Domain) -> Result<Self, TlsError> {
        let path = folder.join(format!("self-signed-{host}.pem"));
        if !path.exists() {
            let pem = make_self_signed(host).map_err(TlsError::Make)?;
            let written = fs::create_dir_all(folder).and_then(|()| write_private(&path, pem.as_bytes()));
            written.map_err(|source| TlsError::Write { path: path.clone(), source })?;
        }
        Self::load(&path, &path)
    }

    /// The configuration of a listener, with session tickets (keys change every six hours, in memory only). What is older
    /// than `minimum` is refused.
    ///
    /// # Errors
    /// The key does not belong to the certificate, or is of a kind that is not supported.
    pub fn server_config(&self, minimum: TlsVersion) -> Result<Arc<ServerConfig>, TlsError> {
        let build = || {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(since(minimum))?
                .with_no_client_auth()
                .with_single_cert(self.chain.clone(), self.key.clone_key())?;
            config.ticketer = aws_lc_rs::Ticketer::new()?;
            config.send_tls13_tickets = 1;
            Ok(Arc::new(config))
        };
        build().map_err(TlsError::Unusable)
    }
}

/// The server side of an upgrade. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(TlsAcceptor::from(config))
    }
}

/// The client side. Cheap to clone; clones resume each other's sessions.
#[derive(Clone)]
pub struct Connector {
    unverified: Versions,
    verified: Option<Versions>,
    /// Those of the operator's file.
    authorities: AuthoritiesHash,
}

/// One configuration for each version that may be the earliest.
#[derive(Clone)]
struct Versions {
    any: TlsConnector,
    latest: TlsConnector,
}

/// The versions from `minimum` on.
fn since(minimum: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match minimum {
        TlsVersion::V1_2 => &VERSIONS,
        TlsVersion::V1_3 => &VERSIONS[..1],
    }
}

impl Versions {
    fn new(
        make: impl Fn(&[&'static SupportedProtocolVersion]) -> Result<ClientConfig, TlsError>,
    ) -> Result<Self, TlsError> {
        let connector = |versions: &[_]| {
            let mut config = make(versions)?;
            config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { any: connector(since(TlsVersion::V1_2))?, latest: connector(since(TlsVersion::V1_3))? })
    }

    fn since(&self, version: TlsVersion) -> &TlsConnector {
        match version {
            TlsVersion::V1_2 => &self.any,
            TlsVersion::V1_3 => &self.latest,
        }
    }
}

impl Connector {
    /// The policies with the authorities of this system, [`SYSTEM_ROOTS`], and those of the operator's PEM file beside them.
    ///
    /// # Errors
    /// The operator's file has not what it should, or the provider of cryptography does not support the protocol versions.
    pub fn system(receiver_authorities: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = roots_of(Path::new(SYSTEM_ROOTS));
        let mut authorities = AuthoritiesHash::of([]);
        if let Some(file) = receiver_authorities {
            let added = add_authorities(&mut roots, file)?;
            authorities = AuthoritiesHash::of(added.iter().map(AsRef::as_ref));
            tracing::info!(file = %file.display(), added = added.len(), "authorities of receivers' certificates");
        }
        Self::of_roots(roots, authorities)
    }

    /// Which authorities it takes beside the system's.
    pub fn authorities(&self) -> AuthoritiesHash {
        self.authorities
    }

    /// The policies with the roots in a PEM file alone. Where it does not exist or has none, the verified policy is not to
    /// be had: [`MaybeTls::connect`] says so when it is asked for.
    ///
    /// # Errors
    /// The provider of cryptography does not support the protocol versions.
    pub fn with_roots(file: &Path) -> Result<Self, TlsError> {
        Self::of_roots(roots_of(file), AuthoritiesHash::of([]))
    }

    fn of_roots(roots: RootCertStore, authorities: AuthoritiesHash) -> Result<Self, TlsError> {
        let builder = |versions: &[&'static SupportedProtocolVersion]| {
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).map_err(TlsError::Unusable)
        };
        let anyone = Arc::new(Anyone { schemes: provider().signature_verification_algorithms.supported_schemes() });
        let unverified = Versions::new(|versions| {
            let builder = builder(versions)?.dangerous();
            Ok(builder.with_custom_certificate_verifier(anyone.clone()).with_no_client_auth())
        })?;
        let roots = Arc::new(roots);
        let verified = (!roots.is_empty()).then(|| {
            Versions::new(|versions| Ok(builder(versions)?.with_root_certificates(roots.clone()).with_no_client_auth()))
        });
        Ok(Self { unverified, verified: verified.transpose()?, authorities })
    }
}

/// A stream that is plain, or TLS on either side.
pub enum MaybeTls<S> {
    Plain(S),
    Server(Box<server::TlsStream<Joined<S>>>),
    Client { stream: Box<client::TlsStream<Joined<S>>>, verified: bool },
}

impl<S: AsyncRead + AsyncWrite + Unpin> MaybeTls<S> {
    /// Flushes, then waits for the peer's handshake.
    ///
    /// # Errors
    /// A short reason, fit for a log line; the connection is of no further use.
    pub async fn accept(self, acceptor: &Acceptor) -> io::Result<Self> {
        let mut stream = self.into_plain()?;
        stream.flush().await?;
        let stream = acceptor.0.accept(Joined::new(stream)).await.map_err(short)?;
        Ok(Self::Server(Box::new(stream)))
    }

    /// Flushes, then shakes hands with `host`, in no earlier version: `verify` wants its certificate checked.
    ///
    /// # Errors
    /// A short reason, fit for an event; the connection is of no further use.
    pub async fn connect(
        self,
        connector: &Connector,
        host: &Domain,
        verify: bool,
        minimum_version: TlsVersion,
    ) -> io::Result<Self> {
        let versions = if verify {
            connector
                .verified
                .as_ref()
                .ok_or_else(|| io::Error::other("this host has no CA certificates to verify by"))?
        } else {
            &connector.unverified
        };
        let name = server_name(host)?;
        let mut stream = self.into_plain()?;
        stream.flush().await?;
        let stream = versions.since(minimum_version).connect(name, Joined::new(stream)).await.map_err(short)?;
        Ok(Self::Client { stream: Box::new(stream), verified: verify })
    }

    /// What was negotiated; `None` in plaintext.
    pub fn facts(&self) -> Option<TlsFacts> {
        let (state, verified): (&CommonState, bool) = match self {
            Self::Plain(_) => return None,
            Self::Server(stream) => (stream.get_ref().1, false),
            Self::Client { stream, verified } => (stream.get_ref().1, *verified),
        };
        let version = state.protocol_version().and_then(|version| version.as_str());
        let cipher = state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        Some(TlsFacts {
            version: version.unwrap_or_default().replace('_', "."),
            cipher: cipher.unwrap_or_default().to_owned(),
            verified,
        })
    }

    /// The certificate that the client has shown, which the listener has checked then.
    pub fn client_certificate(&self) -> Option<&CertificateDer<'static>> {
        let Self::Server(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first()
    }

    /// The stream below, for its addresses.
    pub fn socket(&self) -> &S {
        match self {
            Self::Plain(stream) => stream,
            Self::Server(stream) => &stream.get_ref().0.stream,
            Self::Client { stream, .. } => &stream.get_ref().0.stream,
        }
    }

    fn into_plain(self) -> io::Result<S> {
        match self {
            Self::Plain(stream) => Ok(stream),
            Self::Server(_) | Self::Client { .. } => Err(io::Error::other("the connection is encrypted already")),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Server(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Client { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Server(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Client { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Server(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Client { stream, .. } => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Server(stream) => Pin::new(stream).poll_flush(cx),
            Self::Client { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_close(cx),
            Self::Server(stream) => Pin::new(stream).poll_close(cx),
            Self::Client { stream, .. } => Pin::new(stream).poll_close(cx),
        }
    }
}

/// A stream that sends small parts in one piece.
///
/// A flight of a handshake is several small records, and streams without a gathering write would send each by itself:
/// more packets, and the alert of a failed handshake, for which there is one write only, would stay behind.
pub struct Joined<S> {
    stream: S,
    piece: Vec<u8>,
}

impl<S> Joined<S> {
    fn new(stream: S) -> Self {
        Self { stream, piece: Vec::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Joined<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Joined<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, piece } = self.get_mut();
        piece.clear();
        for part in parts {
            if piece.len() + part.len() > JOINED_BYTES_MAX {
                break;
            }
            piece.extend_from_slice(part);
        }
        if piece.is_empty() {
            // Nothing at all, or a first part that is large enough to go by itself.
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return Pin::new(stream).poll_write(cx, first);
        }
        Pin::new(stream).poll_write(cx, piece)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Takes any certificate and does not check what it signed: with an unknown certificate a signature proves nothing.
#[derive(Debug)]
struct Anyone {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots_of(file: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Ok(pem) = fs::read(file) {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    }
    roots
}

/// Adds every certificate of the operator's file, which has nothing else; gives them.
fn add_authorities(roots: &mut RootCertStore, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = certificates_of(file)?;
    let found = certificates.len();
    if found > RECEIVER_AUTHORITIES_MAX {
        return Err(TlsError::TooManyAuthorities { path: file.to_owned(), found });
    }
    for (at, certificate) in certificates.iter().enumerate() {
        let added = roots.add(certificate.clone());
        added.map_err(|source| TlsError::Authority { path: file.to_owned(), number: at + 1, source })?;
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// The certificates of a PEM file, of which there is one at least.
fn certificates_of(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let certificates = certificates.unwrap_or_default();
    if certificates.is_empty() { Err(TlsError::NoCertificate { path: file.to_owned() }) } else { Ok(certificates) }
}

/// The name for SNI and the certificate; an address literal is checked as an address and sends no SNI.
fn server_name(host: &Domain) -> io::Result<ServerName<'static>> {
    match host.literal() {
        Some(address) => Ok(ServerName::IpAddress(address.into())),
        None => ServerName::try_from(host.as_str().to_owned())
            .map_err(|_| io::Error::other("the host has a name that no certificate can have")),
    }
}

/// Key and certificate of `host`, one PEM text.
fn make_self_signed(host: &Domain) -> Result<String, rcgen::Error> {
    let name = host.literal().map_or_else(|| host.as_str().to_owned(), |address| address.to_string());
    let mut parameters = rcgen::CertificateParams::new([name.clone()])?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

/// Writes a file of mode 0600 whole or not at all.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// A failed handshake in a few words.
fn short(error: io::Error) -> io::Error {
    let kind = error.kind();
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => reason_of(error),
        None if kind == io::ErrorKind::UnexpectedEof => "the peer closed the connection in the handshake".to_owned(),
        None => return error,
    };
    io::Error::new(kind, reason)
}

fn reason_of(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another name"
            }
            CertificateError::UnknownIssuer => "the certificate is of an unknown issuer",
            CertificateError::BadSignature => "the certificate is not signed by the authority that it names",
            CertificateError::Revoked => "the certificate is revoked",
            _ => "the certificate is not valid",
        }
        .to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the peer sent the alert {alert:?}"),
        rustls::Error::InvalidMessage(_) => "the peer does not speak TLS".to_owned(),
        rustls::Error::PeerIncompatible(why) => format!("the peer is incompatible: {why:?}"),
        rustls::Error::PeerMisbehaved(why) => format!("the peer misbehaved: {why:?}"),
        _ => "the handshake failed".to_owned(),
    }
}

/// Octets that are joined to one piece: a handshake's flight without its certificates.
const JOINED_BYTES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::os::unix::fs::PermissionsExt;
    use std::rc::Rc;
    use std::task::Waker;

    use futures_lite::future::{block_on, zip};
    use futures_util::AsyncReadExt;
    use rustls::HandshakeKind;

    use super::*;

    #[test]
    fn an_opportunistic_client_encrypts_without_asking_who_it_is() {
        let folder = Folder::new("opportunistic");
        let (server, client) = upgrade(&folder.acceptor("mx.example"), &folder.connector(), "other.example", false);
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        assert_eq!(said(&mut client, &mut server, "EHLO"), "EHLO");
        assert_eq!(said(&mut server, &mut client, "250 mx.example"), "250 mx.example");
        for facts in [server.facts().unwrap(), client.facts().unwrap()] {
            assert_eq!((facts.version.as_str(), facts.verified), ("TLSv1.3", false));
            assert!(facts.cipher.starts_with("TLS13_"), "{}", facts.cipher);
        }
    }

    #[test]
    fn a_verified_client_wants_the_right_name_of_a_known_root() {
        let folder = Folder::new("verified");
        let acceptor = folder.acceptor("mx.example");
        let known = Connector::with_roots(&folder.0.join("self-signed-mx.example.pem")).unwrap();
        let (_, client) = upgrade(&acceptor, &known, "mx.example", true);
        assert!(client.unwrap().facts().unwrap().verified);
        let strange = Folder::new("strange");
        strange.acceptor("ca.example");
        let strange = Connector::with_roots(&strange.0.join("self-signed-ca.example.pem")).unwrap();
        for (connector, host, ours, theirs) in [
            (&known, "other.example", "the certificate is for another name", "the peer sent the alert"),
            (&known, "[192.0.2.1]", "the certificate is for another name", "the peer sent the alert"),
            (&strange, "mx.example", "the certificate is of an unknown issuer", "the peer sent the alert"),
        ] {
            let (server, client) = upgrade(&acceptor, connector, host, true);
            assert_eq!(failure(client), ours, "{host}");
            let said = failure(server);
            assert!(said.starts_with(theirs), "{host}: {said}");
        }
    }

    #[test]
    fn an_authority_of_the_operator_counts_and_its_file_says_what_is_wrong_with_it() {
        let folder = Folder::new("authority");
        let acceptor = folder.acceptor("mx.example");
        let file = |name: &str, content: &str| {
            let path = folder.0.join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let good = folder.0.join("self-signed-mx.example.pem");
        let (_, client) = upgrade(&acceptor, &Connector::system(Some(&good)).unwrap(), "mx.example", true);
        assert!(client.unwrap().facts().unwrap().verified);
        let one = fs::read_to_string(&good).unwrap();
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (path, wrong) in [
            (folder.0.join("absent"), "cannot read "),
            (file("empty.pem", "no certificate here\n"), "empty.pem has no certificate, or a malformed one"),
            (file("other.pem", &format!("{one}{other}")), "other.pem cannot be an authority's"),
            (file("many.pem", &one.repeat(257)), "many.pem has 257 certificates, at most 256 authorities are taken"),
        ] {
            let said = Connector::system(Some(&path)).err().expect("it is refused").to_string();
            assert!(said.contains(wrong), "{said}");
        }
    }

    #[test]
    fn without_roots_nothing_can_be_verified() {
        let folder = Folder::new("rootless");
        let (_, client) = upgrade(&folder.acceptor("mx.example"), &folder.connector(), "mx.example", true);
        assert_eq!(failure(client), "this host has no CA certificates to verify by");
    }

    #[test]
    fn sessions_resume_within_a_policy_and_not_across() {
        let folder = Folder::new("resumption");
        let acceptor = folder.acceptor("mx.example");
        let connector = Connector::with_roots(&folder.0.join("self-signed-mx.example.pem")).unwrap();
        for (verify, kind) in [
            (false, HandshakeKind::Full),
            (false, HandshakeKind::Resumed),
            (true, HandshakeKind::Full),
            (true, HandshakeKind::Resumed),
        ] {
            let (server, client) = upgrade(&acceptor, &connector.clone(), "mx.example", verify);
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            said(&mut server, &mut client, "220 and a ticket on the way");
            let MaybeTls::Client { stream, .. } = &client else { panic!("not a client") };
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "verify: {verify}");
        }
    }

    #[test]
    fn what_was_written_in_plaintext_arrives_before_the_handshake() {
        let folder = Folder::new("flush");
        let (acceptor, connector) = (folder.acceptor("mx.example"), folder.connector());
        let (server, client) = pipes();
        let serve = async {
            let mut server = MaybeTls::Plain(server);
            server.write_all(b"220 go ahead\r\n").await.unwrap();
            server.accept(&acceptor).await
        };
        let ask = async {
            let mut client = MaybeTls::Plain(client);
            let mut reply = [0; 14];
            client.read_exact(&mut reply).await.unwrap();
            assert_eq!(&reply, b"220 go ahead\r\n");
            client.connect(&connector, &Domain::parse("mx.example").unwrap(), false, TlsVersion::V1_2).await
        };
        let (server, client) = block_on(zip(serve, ask));
        assert!(server.is_ok() && client.is_ok());
    }

    #[test]
    fn a_peer_without_tls_fails_the_handshake_in_a_few_words() {
        let connector = Folder::new("plain").connector();
        for (said, reason) in [
            (&b"454 4.7.0 not now\r\n"[..], "the peer does not speak TLS"),
            (b"", "the peer closed the connection in the handshake"),
        ] {
            let (mut server, client) = pipes();
            let serve = async {
                server.write_all(said).await.unwrap();
                server.close().await.unwrap();
            };
            let host = Domain::parse("mx.example").unwrap();
            let (_, client) =
                block_on(zip(serve, MaybeTls::Plain(client).connect(&connector, &host, false, TlsVersion::V1_2)));
            assert_eq!(failure(client), reason);
        }
    }

    #[test]
    fn a_stream_is_upgraded_once() {
        let folder = Folder::new("once");
        let acceptor = folder.acceptor("mx.example");
        let (server, _client) = upgrade(&acceptor, &folder.connector(), "mx.example", false);
        assert_eq!(failure(block_on(server.unwrap().accept(&acceptor))), "the connection is encrypted already");
    }

    #[test]
    fn a_self_signed_identity_is_made_once_and_kept_private() {
        let folder = Folder::new("identity");
        let host = Domain::parse("mx.example").unwrap();
        let first = ServerIdentity::self_signed(&folder.0, &host).unwrap();
        let again = ServerIdentity::self_signed(&folder.0, &host).unwrap();
        assert_eq!(first.chain, again.chain);
        let path = folder.0.join("self-signed-mx.example.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = ServerIdentity::self_signed(&folder.0, &Domain::parse("[192.0.2.1]").unwrap()).unwrap();
        let mixed = ServerIdentity { chain: first.chain, key: other.key };
        assert!(matches!(mixed.server_config(TlsVersion::V1_2), Err(TlsError::Unusable(_))));
    }

    #[test]
    fn an_identity_that_is_not_there_says_what_is_missing() {
        let folder = Folder::new("missing");
        let path = |name: &str, content: &str| {
            let path = folder.0.join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let (empty, broken) = (path("empty", ""), path("broken", "-----BEGIN CERTIFICATE-----\n!\n"));
        let load = |chain: &Path, key: &Path| ServerIdentity::load(chain, key).err().map(|error| error.to_string());
        ServerIdentity::self_signed(&folder.0, &Domain::parse("mx.example").unwrap()).unwrap();
        let good = folder.0.join("self-signed-mx.example.pem");
        let absent = folder.0.join("absent");
        for (chain, key, error) in [
            (&absent, &good, "cannot read"),
            (&good, &absent, "cannot read"),
            (&empty, &good, "has no certificate"),
            (&broken, &good, "has no certificate"),
            (&good, &empty, "has no private key"),
        ] {
            let said = load(chain, key).unwrap_or_default();
            assert!(said.contains(error), "{said}");
        }
        assert_eq!(load(&good, &good), None);
    }

    /// A folder of its own for a test, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("postrail-tls-{}-{test}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn acceptor(&self, host: &str) -> Acceptor {
            let identity = ServerIdentity::self_signed(&self.0, &Domain::parse(host).unwrap()).unwrap();
            Acceptor::new(identity.server_config(TlsVersion::V1_2).unwrap())
        }

        /// Without roots.
        fn connector(&self) -> Connector {
            Connector::with_roots(&self.0.join("no-roots")).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    type Upgraded = io::Result<MaybeTls<Pipe>>;

    /// Both ends of a handshake over a fresh pipe: server, client.
    fn upgrade(acceptor: &Acceptor, connector: &Connector, host: &str, verify: bool) -> (Upgraded, Upgraded) {
        let (server, client) = pipes();
        let host = Domain::parse(host).unwrap();
        let serve = MaybeTls::Plain(server).accept(acceptor);
        block_on(zip(serve, MaybeTls::Plain(client).connect(connector, &host, verify, TlsVersion::V1_2)))
    }

    fn said(from: &mut MaybeTls<Pipe>, to: &mut MaybeTls<Pipe>, words: &str) -> String {
        let mut heard = vec![0; words.len()];
        let speak = async {
            from.write_all(words.as_bytes()).await.unwrap();
            from.flush().await.unwrap();
        };
        block_on(zip(speak, async { to.read_exact(&mut heard).await.unwrap() }));
        String::from_utf8(heard).unwrap()
    }

    fn failure(upgraded: Upgraded) -> String {
        upgraded.err().expect("the handshake must fail").to_string()
    }

    /// One direction of a pipe.
    #[derive(Default)]
    struct Channel {
        bytes: VecDeque<u8>,
        closed: bool,
        reader: Option<Waker>,
    }

    /// One end of a connection in memory. What is written arrives when it is flushed or the end goes, and not before.
    struct Pipe {
        incoming: Rc<RefCell<Channel>>,
        outgoing: Rc<RefCell<Channel>>,
        unflushed: Vec<u8>,
    }

    fn pipes() -> (Pipe, Pipe) {
        let (one, two) = <(Rc<RefCell<Channel>>, Rc<RefCell<Channel>>)>::default();
        let end = |incoming: &Rc<_>, outgoing: &Rc<_>| Pipe {
            incoming: Rc::clone(incoming),
            outgoing: Rc::clone(outgoing),
            unflushed: Vec::new(),
        };
        (end(&one, &two), end(&two, &one))
    }

    impl Pipe {
        fn push(&mut self, close: bool) {
            let mut channel = self.outgoing.borrow_mut();
            channel.bytes.extend(self.unflushed.drain(..));
            channel.closed |= close;
            if let Some(reader) = channel.reader.take() {
                reader.wake();
            }
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            self.push(true);
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            let mut channel = self.incoming.borrow_mut();
            if channel.bytes.is_empty() && !channel.closed {
                channel.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let length = buffer.len().min(channel.bytes.len());
            for (place, byte) in buffer.iter_mut().zip(channel.bytes.drain(..length)) {
                *place = byte;
            }
            Poll::Ready(Ok(length))
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.unflushed.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.push(false);
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.push(true);
            Poll::Ready(Ok(()))
        }
    }
}
