//! A wire that changes what is said on it: between a coordinator and its workers it makes one of them speak another
//! version, or another plan, without a build of that version at hand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes to replace by others of the same number, in one direction.
#[derive(Clone)]
pub struct Change {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Change {
    /// Replaces `from` by `to` wherever a packet has it.
    ///
    /// # Panics
    /// When the two are not equally long: the frames around them would no longer fit.
    pub fn new(from: &[u8], to: &[u8]) -> Self {
        assert_eq!(from.len(), to.len());
        Self { from: from.into(), to: to.into() }
    }

    fn apply(&self, bytes: &mut [u8]) {
        for at in 0..(bytes.len() + 1).saturating_sub(self.from.len()) {
            if bytes[at..].starts_with(&self.from) {
                bytes[at..at + self.to.len()].copy_from_slice(&self.to);
            }
        }
    }
}

/// A port that leads to `target`; what goes there and what comes back is changed on the way.
///
/// # Panics
/// When no port is free.
pub fn tampered(target: &str, there: Option<Change>, back: Option<Change>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let target = target.to_string();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // Nobody listens there yet: the caller tries again.
            let Ok(far) = TcpStream::connect(&target) else { continue };
            let ends = [(&near, &far, &there), (&far, &near, &back)];
            for (from, to, change) in ends {
                let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                let change = change.clone();
                std::thread::spawn(move || carry(from, to, change.as_ref()));
            }
        }
    });
    address
}

/// A port that leads to `target` until `last` is said there: that still arrives, and from then on nothing more is
/// carried, either way. Connections stay open, as those of a process that is stopped or of a cable that is pulled.
///
/// # Panics
/// When no port is free.
pub fn silenced(target: &str, last: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (target, last) = (target.to_string(), last.to_vec());
    let silent = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&target) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (mut from, mut to) =
                    (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                let (last, silent) = (last.clone(), silent.clone());
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        let bytes = &buffer[..read];
                        let heard = silent.load(Ordering::SeqCst) || to.write_all(bytes).is_ok();
                        if bytes.windows(last.len()).any(|w| w == last) {
                            silent.store(true, Ordering::SeqCst);
                        }
                        if !heard {
                            break;
                        }
                    }
                });
            }
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, change: Option<&Change>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..read];
        if let Some(change) = change {
            change.apply(bytes);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    // The other side hears that this one has hung up.
    let _ = to.shutdown(Shutdown::Write);
}
