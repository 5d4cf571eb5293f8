//! Flags of what shows a coordinator that a process is of its job.

use super::Exit;
use super::resume::quoted;
use crate::session::{Credentials, JobToken, Tls, TlsFiles};
use std::path::{Path, PathBuf};

/// What shows a coordinator that this process is of its job.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CredentialFlags {
    /// File with the job's token, where its coordinator was given one. The environment may have the token itself (OCTRAIN_TOKEN) in
    /// its place.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates.
    #[command(flatten)]
    pub tls: TlsFlags,
}

/// This side's certificates.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsFlags {
    /// Authority of the job's certificates, in PEM, where its coordinator was given one: connections are by TLS then.
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// Certificate of this side: worker.pem of those that `octrain-coordinator --make-certs` has made.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    pub tls_key: Option<PathBuf>,
}

impl TlsFlags {
    fn read(&self) -> Result<Option<Tls>, Exit> {
        let Self { tls_ca: Some(ca), tls_cert: Some(cert), tls_key: Some(key) } = self else {
            return Ok(None);
        };
        let files = TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
        Tls::read(files).map(Some).map_err(Exit::configuration)
    }
}

/// The files as a worker is given them.
pub fn tls_arguments(files: &TlsFiles) -> [(&'static str, &Path); 3] {
    [("--tls-ca", &files.ca), ("--tls-cert", &files.cert), ("--tls-key", &files.key)]
}

impl CredentialFlags {
    /// Reads them.
    ///
    /// # Errors
    /// When a file that is named is none.
    pub fn read(&self) -> Result<Credentials, Exit> {
        let token = JobToken::find(self.token_file.as_deref()).map_err(Exit::configuration)?;
        Ok(Credentials { token, tls: self.tls.read()? })
    }

    /// As they are given again, each with a blank in front.
    pub fn again(&self) -> String {
        let TlsFlags { tls_ca, tls_cert, tls_key } = &self.tls;
        [("token-file", &self.token_file), ("tls-ca", tls_ca), ("tls-cert", tls_cert), ("tls-key", tls_key)]
            .into_iter()
            .filter_map(|(name, path)| {
                Some(format!(" --{name} {}", quoted(&path.as_ref()?.display().to_string())))
            })
            .collect()
    }
}
