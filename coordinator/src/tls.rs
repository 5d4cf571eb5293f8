//! Certificates of a job: the files, and what both sides of a connection are configured with. Only TLS 1.3 is spoken, and both sides
//! show a certificate of the job's own authority.

use crate::secret_file;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{CertificateError, Error, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is spoken within.
const HTTP2: &[u8] = b"h2";

/// Where one side's certificates are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The job's authority, which both sides' certificates are of.
    pub ca: PathBuf,
    /// This side's certificate, with those between it and the authority, if any.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why a side has no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or may not be read.
    #[error("--tls-{flag} `{}` cannot be read: {source}", path.display())]
    Unread {
        /// Which one.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file is something else.
    #[error(
        "--tls-{flag} `{}` holds no {what} in PEM ({why}); `octrain-coordinator --make-certs DIR` makes all files of a job", path.display()
    )]
    Unfit {
        /// Which one.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A key of another certificate.
    #[error(
        "--tls-key `{}` is not the key of --tls-cert `{}`: give the two that were made together", key.display(), cert.display()
    )]
    Key {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
    },
    /// A certificate that nobody would take.
    #[error("--tls-cert `{}` {why}", cert.display())]
    Own {
        /// The certificate.
        cert: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Anything else.
    #[error("the certificates cannot be used: {0}")]
    Other(Error),
}

/// What the files hold.
struct Held<'a> {
    files: &'a TlsFiles,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsFiles {
    /// What a coordinator listens with, whose certificate is checked first.
    ///
    /// # Errors
    /// When a file is missing or is something else, and when the certificate is not of the authority, is not valid now, or is none
    /// of a coordinator.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.server_at(SystemTime::now())
    }

    /// [`TlsFiles::server`], checked as of another time.
    ///
    /// # Errors
    /// Likewise.
    pub fn server_at(&self, now: SystemTime) -> Result<Arc<ServerConfig>, TlsError> {
        let held = self.read()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(held.roots.clone(), provider());
        let verifier = verifier.build().map_err(|e| TlsError::Other(Error::General(e.to_string())))?;
        // By which name it is reached is known to those who reach it.
        let name = ServerName::try_from("coordinator.invalid").expect("a name");
        match verifier.verify_server_cert(&held.chain[0], &held.chain[1..], &name, &[], moment(now)) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(e) => return Err(held.own(e, "coordinator")),
        }
        let clients = WebPkiClientVerifier::builder_with_provider(held.roots.clone(), provider());
        let clients = clients.build().map_err(|e| TlsError::Other(Error::General(e.to_string())))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Other)?
            .with_client_cert_verifier(clients);
        let mut config = config.with_single_cert(held.chain, held.key).map_err(|e| unpaired(e, self))?;
        config.alpn_protocols = vec![HTTP2.into()];
        Ok(Arc::new(config))
    }

    /// What a worker, a launcher or `octrain status` connects with; their certificate is checked first.
    ///
    /// # Errors
    /// As [`TlsFiles::server`], for a worker's certificate.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.client_at(SystemTime::now())
    }

    /// [`TlsFiles::client`], checked as of another time.
    ///
    /// # Errors
    /// Likewise.
    pub fn client_at(&self, now: SystemTime) -> Result<Arc<ClientConfig>, TlsError> {
        let held = self.read()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(held.roots.clone(), provider());
        let verifier = verifier.build().map_err(|e| TlsError::Other(Error::General(e.to_string())))?;
        verifier
            .verify_client_cert(&held.chain[0], &held.chain[1..], moment(now))
            .map_err(|e| held.own(e, "worker"))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Other)?
            .with_root_certificates(held.roots)
            .with_client_auth_cert(held.chain, held.key)
            .map_err(|e| unpaired(e, self))?;
        config.alpn_protocols = vec![HTTP2.into()];
        Ok(Arc::new(config))
    }

    fn read(&self) -> Result<Held<'_>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates("ca", &self.ca)? {
            let unfit = |e: Error| unfit("ca", &self.ca, "certificate", e.to_string());
            roots.add(authority).map_err(unfit)?;
        }
        let key = secret_file::read(&self.key).map_err(|source| unread("key", &self.key, source))?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|e| unfit("key", &self.key, "private key", damage(&e)))?;
        Ok(Held { files: self, roots: Arc::new(roots), chain: certificates("cert", &self.cert)?, key })
    }
}

impl Held<'_> {
    fn own(&self, e: Error, whose: &str) -> TlsError {
        let Error::InvalidCertificate(e) = e else { return TlsError::Other(e) };
        let why = match &e {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("is not of --tls-ca `{}`: give files of one job", self.files.ca.display())
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                format!("is none of a {whose}: give the file {whose}.pem that --make-certs has made")
            }
            e => dated(e).unwrap_or_else(|| format!("cannot be used: {e}")),
        };
        TlsError::Own { cert: self.files.cert.clone(), why }
    }
}

/// What is wrong with the time of a certificate, as a clause, and what to do; none where it is something else.
pub fn dated(e: &CertificateError) -> Option<String> {
    const NEW: &str = "make new ones (octrain-coordinator --make-certs DIR), or set the clock right";
    match e {
        CertificateError::Expired => Some(format!("has expired by this machine's clock: {NEW}")),
        CertificateError::ExpiredContext { time, not_after } => {
            let since = spoken(apart(*time, *not_after));
            Some(format!("has expired {since} ago by this machine's clock: {NEW}"))
        }
        CertificateError::NotValidYet => Some(format!("is not valid yet by this machine's clock: {NEW}")),
        CertificateError::NotValidYetContext { time, not_before } => {
            let left = spoken(apart(*not_before, *time));
            Some(format!("is valid only in {left} by this machine's clock: {NEW}"))
        }
        _ => None,
    }
}

fn moment(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn apart(later: UnixTime, sooner: UnixTime) -> Duration {
    Duration::from_secs(later.as_secs().saturating_sub(sooner.as_secs()))
}

/// A time in its largest unit.
fn spoken(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3600 => format!("{} hours", s / 3600),
        s if s >= 120 => format!("{} minutes", s / 60),
        s => format!("{s} s"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| unread(flag, path, source))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(unfit(flag, path, "certificate", "there is none".into())),
        Ok(all) => Ok(all),
        Err(e) => Err(unfit(flag, path, "certificate", damage(&e))),
    }
}

/// What is wrong with a file in PEM; nothing that stands in it is shown.
fn damage(e: &pem::Error) -> String {
    match e {
        pem::Error::NoItemsFound => "there is none".into(),
        _ => "it is damaged".into(),
    }
}

fn unread(flag: &'static str, path: &Path, source: io::Error) -> TlsError {
    TlsError::Unread { flag, path: path.into(), source }
}

fn unfit(flag: &'static str, path: &Path, what: &'static str, why: String) -> TlsError {
    TlsError::Unfit { flag, path: path.into(), what, why }
}

fn unpaired(e: Error, files: &TlsFiles) -> TlsError {
    match e {
        Error::InconsistentKeys(_) => TlsError::Key { key: files.key.clone(), cert: files.cert.clone() },
        e => TlsError::Other(e),
    }
}
