//! Certificates made for one job: an authority of its own, whose key nobody keeps, a coordinator's and the workers'.

use crate::tls::TlsFiles;
use crate::token::draw;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::ServerName;
use std::collections::HashSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// For how long they are valid.
pub const VALID: Duration = Duration::from_secs(365 * 86_400);
/// How long before they are made they are valid: clocks differ.
const BEFORE: Duration = Duration::from_secs(86_400);

/// Why none are made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A name that no certificate can have.
    #[error(
        "--name `{0}` is no name of a host and no address: give what workers say in --coordinator HOST:PORT"
    )]
    Name(String),
    /// A file is there, or the folder cannot be written.
    #[error("`{}` cannot be made: {source}; nothing is ever overwritten, so name a folder without it", path.display())]
    Unwritten {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Cryptography.
    #[error("the certificates cannot be made: {0}")]
    Other(String),
}

/// The files of a job's certificates in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What the coordinator is given.
    pub coordinator: TlsFiles,
    /// What launchers and `octrain status` are given.
    pub worker: TlsFiles,
}

impl Made {
    /// Their names in a folder.
    pub fn within(folder: &Path) -> Self {
        let of = |who: &str| TlsFiles {
            ca: folder.join("ca.pem"),
            cert: folder.join(format!("{who}.pem")),
            key: folder.join(format!("{who}.key")),
        };
        Self { coordinator: of("coordinator"), worker: of("worker") }
    }
}

/// Makes the certificates of a job, valid from `now` (a day before it) for a year, in a folder that is made if it is not there. The
/// coordinator's has these names besides `localhost` and the addresses of loopback. Keys are readable by this user alone.
///
/// # Errors
/// When a name is none, or when a file cannot be made; none is ever overwritten.
pub fn make(folder: &Path, names: &[String], now: SystemTime) -> Result<Made, MakeError> {
    let other = |e: rcgen::Error| MakeError::Other(e.to_string());
    let drawn = draw().map_err(|e| MakeError::Other(e.to_string()))?;
    let dated = |mut params: CertificateParams, who: &str| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Told from every other job's, so that a certificate of another one is known as such.
        params.distinguished_name.push(DnType::CommonName, format!("Octrain {who} of job {drawn}"));
        (params.not_before, params.not_after) = (moment(now - BEFORE), moment(now + VALID));
        params
    };
    let mut authority = dated(CertificateParams::default(), "authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().map_err(other)?;
    let ca = authority.self_signed(&key).map_err(other)?;
    let issuer = Issuer::from_params(&authority, key);

    let loopback = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let mut all: Vec<String> = loopback.into_iter().chain(names.iter().cloned()).collect();
    // As in an address with a port.
    all.iter_mut().for_each(|name| *name = name.trim_start_matches('[').trim_end_matches(']').to_string());
    let mut seen = HashSet::new();
    all.retain(|name| seen.insert(name.clone()));
    // What a worker can ask for, and the certificate then has.
    if let Some(name) = all.iter().find(|n| ServerName::try_from(n.strip_prefix("*.").unwrap_or(n)).is_err())
    {
        return Err(MakeError::Name(name.clone()));
    }
    let mut coordinator = dated(CertificateParams::new(all).map_err(other)?, "coordinator");
    coordinator.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut worker = dated(CertificateParams::default(), "worker");
    worker.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    let made = Made::within(folder);
    let unwritten = |path: &Path| {
        let path = path.to_path_buf();
        move |source| MakeError::Unwritten { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unwritten(folder))?;
    write(&made.worker.ca, 0o644, &ca.pem())?;
    for (params, files) in [(coordinator, &made.coordinator), (worker, &made.worker)] {
        let key = KeyPair::generate().map_err(other)?;
        let cert = params.signed_by(&key, &issuer).map_err(other)?;
        write(&files.cert, 0o644, &cert.pem())?;
        write(&files.key, 0o600, &key.serialize_pem())?;
    }
    Ok(made)
}

/// Writes a file that is not there yet.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), MakeError> {
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|source| MakeError::Unwritten { path: path.into(), source })
}

fn moment(at: SystemTime) -> OffsetDateTime {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
