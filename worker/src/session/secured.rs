//! Connections to a coordinator, plain or by TLS, and in words what is wrong with them for as long as nobody changes anything.

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use octrain_coordinator::tls::{TlsError, TlsFiles, dated};
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ClientConfig};
use tonic::codegen::Service;
use tonic::transport::Uri;

/// The first byte of whatever a server says that speaks TLS.
const ALERT: u8 = 21;

/// Certificates of this side, read and checked.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads them.
    ///
    /// # Errors
    /// When a file is missing or is something else, and when the certificate is not of the authority, is not valid now, or is none
    /// of a worker.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        Self::read_at(files, SystemTime::now())
    }

    /// [`Tls::read`], checked as of another time.
    ///
    /// # Errors
    /// Likewise.
    pub fn read_at(files: TlsFiles, at: SystemTime) -> Result<Self, TlsError> {
        let config = files.client_at(at)?;
        Ok(Self { files, config })
    }

    /// Where they were read.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.files).finish()
    }
}

/// What is wrong with the last connection, where it is one side's files or the other's.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Opens connections to one coordinator.
#[derive(Clone)]
pub(super) struct Connector {
    http: HttpConnector,
    secured: Option<(TlsConnector, ServerName<'static>)>,
    trouble: Trouble,
}

impl Connector {
    /// To the host of this name; none where that is neither a name nor an address.
    pub(super) fn new(host: &str, tls: Option<&Tls>, trouble: Trouble) -> Option<Self> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        // Shared out over the addresses of the name, with time left to show certificates within the endpoint's own.
        http.set_connect_timeout(Some(Duration::from_secs(4)));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let secured = match tls {
            Some(tls) => Some((Arc::clone(&tls.config).into(), ServerName::try_from(host).ok()?)),
            None => None,
        };
        Some(Self { http, secured, trouble })
    }

    async fn open(mut self, to: Uri) -> Result<TokioIo<Stream>, Box<dyn Error + Send + Sync>> {
        self.trouble.set(None);
        let tcp = self.http.call(to).await?.into_inner();
        let Some((connector, name)) = self.secured else {
            return Ok(TokioIo::new(Stream::Plain { tcp, heard: false, trouble: self.trouble }));
        };
        let secured = async {
            let mut tls = connector.connect(name.clone(), tcp).await?;
            // Only with the server's first words does it say whether it takes this side's certificate.
            let mut first = vec![0; 1024];
            let read = tls.read(&mut first).await?;
            first.truncate(read);
            match read {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(Stream::Secured { tls: Box::new(tls), first: io::Cursor::new(first) }),
            }
        };
        let opened: io::Result<Stream> = secured.await;
        opened.map(TokioIo::new).map_err(|e| {
            self.trouble.set(of_rustls(&e).and_then(|e| distrust(e, &name)));
            e.into()
        })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().open(to))
    }
}

fn of_rustls(e: &io::Error) -> Option<&rustls::Error> {
    e.get_ref()?.downcast_ref()
}

/// Why two sides do not come together by TLS, and what to do; none where trying again may help.
fn distrust(e: &rustls::Error, name: &ServerName<'_>) -> Option<String> {
    use rustls::Error as E;
    let name = name.to_str();
    Some(match e {
        E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is of another job's authority: check the address, and that --tls-ca is the ca.pem that it was started with"
                .into()
        }
        E::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            format!(
                "its certificate is for {}, and not for `{name}`: say one of these, or make certificates with --name {name}",
                presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ")
            )
        }
        E::InvalidCertificate(CertificateError::NotValidForName) => {
            format!("its certificate is not for `{name}`: make certificates with --name {name}")
        }
        E::InvalidCertificate(CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }) => {
            "its certificate is none of a coordinator: start it with coordinator.pem and coordinator.key".into()
        }
        E::InvalidCertificate(e) => match dated(e) {
            Some(what) => format!("its certificate {what}"),
            None => format!("its certificate cannot be used ({e}): make new ones (octrain-coordinator --make-certs DIR)"),
        },
        E::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "it does not know the authority of this side's --tls-cert: give the files that were made for its job".into()
        }
        E::AlertReceived(AlertDescription::CertificateExpired) => {
            "by its clock, this side's --tls-cert has expired or is not valid yet: set both machines' clocks right, or make new ones (octrain-coordinator --make-certs DIR)"
                .into()
        }
        E::AlertReceived(alert) => format!(
            "it refuses this side ({alert:?}): give the files that were made for its job, worker.pem and worker.key"
        ),
        E::InvalidMessage(_) => {
            "it answers without TLS: start it with --tls-ca, --tls-cert and --tls-key, or leave them out here".into()
        }
        E::PeerIncompatible(why) => format!("it speaks another TLS ({why:?}): use the same octrain version on every machine"),
        _ => return None,
    })
}

/// A name of a certificate, as rustls shows it (`DnsName("node-0")`), without its kind.
fn plain(name: &str) -> &str {
    let within = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    within.unwrap_or(name).trim_matches('"')
}

/// A connection.
pub(super) enum Stream {
    /// As it is.
    Plain {
        tcp: TcpStream,
        /// Whether the other side has said something.
        heard: bool,
        trouble: Trouble,
    },
    /// By TLS, with what was read of it already.
    Secured { tls: Box<TlsStream<TcpStream>>, first: io::Cursor<Vec<u8>> },
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain { tcp, heard, trouble } => {
                let before = buffer.filled().len();
                let read = Pin::new(tcp).poll_read(cx, buffer);
                if let Some(byte) = buffer.filled().get(before).filter(|_| !*heard) {
                    *heard = true;
                    if *byte == ALERT {
                        trouble.set(Some(
                            "it speaks TLS, and this side has no certificate: give --tls-ca, --tls-cert and --tls-key of its job".into(),
                        ));
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                }
                read
            }
            Stream::Secured { tls, first } => {
                if first.position() < first.get_ref().len() as u64 {
                    return Pin::new(first).poll_read(cx, buffer);
                }
                Pin::new(tls).poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Secured { tls, .. } => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_flush(cx),
            Stream::Secured { tls, .. } => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_shutdown(cx),
            Stream::Secured { tls, .. } => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain { tcp, .. } => Pin::new(tcp).poll_write_vectored(cx, parts),
            Stream::Secured { tls, .. } => Pin::new(tls).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain { tcp, .. } => tcp.is_write_vectored(),
            Stream::Secured { tls, .. } => tls.is_write_vectored(),
        }
    }
}
