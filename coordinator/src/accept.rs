//! Taking connections in. An error of one of them, or a process without file descriptors, does not end the server and
//! does not make it spin. With certificates, who shows none of the job's is sent away before it has said anything.

use crate::guard::Guard;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, CertificateError};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Rest after an error that concerns this process or machine.
const REST: Duration = Duration::from_millis(200);
/// Errors between two lines about them: a minute of resting.
const EVERY: u32 = 300;
/// Longest time to show a certificate, and then to read why it is not taken.
const SHOW: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(1);
/// Connections that are at that at once.
const SHOWING: usize = 1024;

/// A connection that was taken in.
pub(crate) enum Connection {
    /// As it is.
    Plain(TcpStream),
    /// By TLS.
    Secured(Box<TlsStream<TcpStream>>),
}

/// The connections that arrive; ends when the stream is dropped. `say` is given what is wrong, once a minute at most.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    guard: Guard,
    say: impl Fn(String) + Send + 'static,
) -> ReceiverStream<io::Result<Connection>> {
    let showing = Arc::new(Semaphore::new(SHOWING));
    let (connections, stream) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut errors = 0;
        loop {
            let accepted = tokio::select! {
                () = connections.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, from)) => {
                    // What cannot be set is slower, and no less right.
                    let _ = tcp.set_nodelay(true);
                    let Some(tls) = &tls else {
                        if connections.send(Ok(Connection::Plain(tcp))).await.is_err() {
                            return;
                        }
                        continue;
                    };
                    // Whoever is one too many tries again.
                    let Ok(permit) = Arc::clone(&showing).try_acquire_owned() else { continue };
                    let (tls, connections, guard) = (tls.clone(), connections.clone(), guard.clone());
                    tokio::spawn(async move {
                        match secured(&tls, tcp).await {
                            // Where nobody takes it, the server has ended.
                            Ok(connection) => drop(connections.send(Ok(connection)).await),
                            Err(Some(why)) => guard.sent_away(from.ip(), &why),
                            Err(None) => {}
                        }
                        drop(permit);
                    });
                }
                // Gone again before it was taken in.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    if errors % EVERY == 0 {
                        say(format!("{}; connections wait meanwhile", advice(&e)));
                    }
                    errors += 1;
                    tokio::time::sleep(REST).await;
                }
            }
        }
    });
    ReceiverStream::new(stream)
}

/// What an error of accepting means.
fn advice(e: &io::Error) -> String {
    /// Too many open files: of this process, and of the system.
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    match e.raw_os_error() {
        Some(EMFILE) => {
            format!("no file descriptors are left for new connections ({e}): raise the limit (ulimit -n)")
        }
        Some(ENFILE) => format!("the system has no file descriptors left ({e}): raise fs.file-max"),
        _ => format!("a connection could not be taken in: {e}"),
    }
}

/// A connection whose other side has shown a certificate of the job's, or in words why not; without words where it has gone without
/// having said anything, as probes do that want to know whether somebody listens.
async fn secured(tls: &TlsAcceptor, tcp: TcpStream) -> Result<Connection, Option<String>> {
    let until = Instant::now() + SHOW;
    let late = || Some(format!("it has shown no certificate within {} s", SHOW.as_secs()));
    match timeout_at(until, tcp.peek(&mut [0])).await {
        Ok(Ok(1..)) => {}
        Ok(Ok(0) | Err(_)) => return Err(None),
        Err(_) => return Err(late()),
    }
    let shown = timeout_at(until, tls.accept(tcp).into_fallible()).await;
    let (e, mut tcp) = match shown {
        Ok(Ok(stream)) => return Ok(Connection::Secured(Box::new(stream))),
        Ok(Err(failed)) => failed,
        Err(_) => return Err(late()),
    };
    // What it is told gets lost where the connection is closed with something unread.
    let _ = tcp.shutdown().await;
    let _ = tokio::time::timeout(READ, async {
        let mut unread = [0; 1024];
        while matches!(tcp.read(&mut unread).await, Ok(1..)) {}
    })
    .await;
    Err(Some(words(&e)))
}

/// Why somebody was not let in.
fn words(e: &io::Error) -> String {
    use rustls::Error as E;
    match e.get_ref().and_then(|e| e.downcast_ref()) {
        Some(E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "its certificate is of another job's authority".into()
        }
        Some(E::InvalidCertificate(e)) => match crate::tls::dated(e) {
            Some(what) => format!("its certificate {what}"),
            None => format!("its certificate is not taken ({e})"),
        },
        Some(E::NoCertificatesPresented) => "it has no certificate".into(),
        Some(E::InvalidMessage(_)) => "it does not speak TLS".into(),
        Some(E::AlertReceived(alert)) => format!("it does not trust this coordinator ({alert:?})"),
        _ => format!("it breaks off ({e})"),
    }
}

impl Guard {
    /// Somebody was not let in.
    fn sent_away(&self, from: IpAddr, why: &str) {
        self.refused("tls", &format!("a connection from {from}: {why}"));
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Connection::Plain(tcp) => tcp.connect_info(),
            Connection::Secured(tls) => tls.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Connection::Secured(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Connection::Secured(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Connection::Secured(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Connection::Secured(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Connection::Secured(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Connection::Plain(tcp) => tcp.is_write_vectored(),
            Connection::Secured(tls) => tls.is_write_vectored(),
        }
    }
}
