//! TLS: the server's identity, the clients' policies, and a stream that may be upgraded.
//!
//! [`MaybeTls`] is plain first and TLS after STARTTLS, or at once on a TLS listener. There are two client policies and
//! one configuration of each, because sessions are resumed within one configuration only: *opportunistic* encrypts
//! without looking at the certificate (RFC 7435: better than plaintext, no worse), *verified* wants a certificate that
//! leads to a root of the system and names the host.
//!
//! Invariants worth naming:
//! - what was written before an upgrade is flushed before the first octet of the handshake;
//! - a session of the opportunistic policy is never resumed under the verified one;
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
use postrail_core::mail::{Domain, TlsFacts};
use postrail_schema::limits::TLS_SESSIONS_MAX;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
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
        let read = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(chain)?).collect();
        let certificates = certificates.unwrap_or_default();
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { path: chain.to_owned() });
        }
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
            write_private(&path, pem.as_bytes()).map_err(|source| TlsError::Write { path: path.clone(), source })?;
        }
        Self::load(&path, &path)
    }

    /// The configuration of a listener, with session tickets (keys change every six hours, in memory only).
    ///
    /// # Errors
    /// The key does not belong to the certificate, or is of a kind that is not supported.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let build = || {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?
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

/// The client side: both policies. Cheap to clone; clones resume each other's sessions.
#[derive(Clone)]
pub struct Connector {
    opportunistic: TlsConnector,
    verified: Option<TlsConnector>,
}

impl Connector {
    /// The policies with the roots of this system, [`SYSTEM_ROOTS`].
    ///
    /// # Errors
    /// The provider of cryptography does not support the protocol versions.
    pub fn system() -> Result<Self, TlsError> {
        Self::with_roots(Path::new(SYSTEM_ROOTS))
    }

    /// The policies with the roots in a PEM file. Where it does not exist or has none, the verified policy is not to be
    /// had: [`MaybeTls::connect`] says so when it is asked for.
    ///
    /// # Errors
    /// The provider of cryptography does not support the protocol versions.
    pub fn with_roots(file: &Path) -> Result<Self, TlsError> {
        let builder = || {
            ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Unusable)
        };
        let finish = |mut config: ClientConfig| {
            config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
            TlsConnector::from(Arc::new(config))
        };
        let anyone = Arc::new(Anyone { schemes: provider().signature_verification_algorithms.supported_schemes() });
        let opportunistic = builder()?.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
        let roots = roots_of(file);
        let verified = if roots.is_empty() {
            None
        } else {
            Some(finish(builder()?.with_root_certificates(roots).with_no_client_auth()))
        };
        Ok(Self { opportunistic: finish(opportunistic), verified })
    }
}

/// A stream that is plain, or TLS on either side.
pub enum MaybeTls<S> {
    Plain(S),
    Server(Box<server::TlsStream<S>>),
    Client { stream: Box<client::TlsStream<S>>, verified: bool },
}

impl<S: AsyncRead + AsyncWrite + Unpin> MaybeTls<S> {
    /// Flushes, then waits for the peer's handshake.
    ///
    /// # Errors
    /// A short reason, fit for a log line; the connection is of no further use.
    pub async fn accept(self, acceptor: &Acceptor) -> io::Result<Self> {
        let mut stream = self.into_plain()?;
        stream.flush().await?;
        let stream = acceptor.0.accept(stream).await.map_err(short)?;
        Ok(Self::Server(Box::new(stream)))
    }

    /// Flushes, then shakes hands with `host`: `verify` wants its certificate checked.
    ///
    /// # Errors
    /// A short reason, fit for an event; the connection is of no further use.
    pub async fn connect(self, connector: &Connector, host: &Domain, verify: bool) -> io::Result<Self> {
        let policy = if verify {
            connector
                .verified
                .as_ref()
                .ok_or_else(|| io::Error::other("this host has no CA certificates to verify by"))?
        } else {
            &connector.opportunistic
        };
        let name = server_name(host)?;
        let mut stream = self.into_plain()?;
        stream.flush().await?;
        let stream = policy.connect(name, stream).await.map_err(short)?;
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
            version: version.unwrap_or_default().to_owned(),
            cipher: cipher.unwrap_or_default().to_owned(),
            verified,
        })
    }

    /// The stream below, for its addresses.
    pub fn socket(&self) -> &S {
        match self {
            Self::Plain(stream) => stream,
            Self::Server(stream) => stream.get_ref().0,
            Self::Client { stream, .. } => stream.get_ref().0,
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
