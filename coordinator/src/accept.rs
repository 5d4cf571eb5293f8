//! Taking connections in. An error of one of them, or a process without file descriptors, does not end the server and
//! does not make it spin.

use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Rest after an error that concerns this process or machine.
const REST: Duration = Duration::from_millis(200);
/// Errors between two lines about them: a minute of resting.
const EVERY: u32 = 300;

/// The connections that arrive; ends when the stream is dropped. `say` is given what is wrong, once a minute at most.
pub(crate) fn incoming(
    listener: TcpListener,
    say: impl Fn(String) + Send + 'static,
) -> ReceiverStream<io::Result<TcpStream>> {
    let (connections, stream) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut errors = 0;
        loop {
            let accepted = tokio::select! {
                () = connections.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((connection, _)) => {
                    if connections.send(Ok(connection)).await.is_err() {
                        return;
                    }
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
