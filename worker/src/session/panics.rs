//! Panics, in any thread of a worker, as this worker's failure: the coordinator is told at once, so that no other
//! worker waits for one whose thread is gone.

use super::Session;
use octrain_proto::v1::FailureKind;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, Once, PoisonError};

/// What panicked, where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; this is a defect of Octrain, please report it")]
pub struct Panicked(String);

/// Who hears of panics.
static LISTENER: Mutex<Option<Sender<String>>> = Mutex::new(None);
static HOOK: Once = Once::new();

fn listener() -> std::sync::MutexGuard<'static, Option<Sender<String>>> {
    LISTENER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sentence(info: &PanicHookInfo) -> String {
    let thread = std::thread::current();
    let place = info.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
    let message = info.payload_as_str().unwrap_or("no message");
    format!("the thread `{}` panicked at {place}: {message}", thread.name().unwrap_or("without a name"))
}

/// Stops listening when it goes.
struct Listening;

impl Listening {
    fn start(to: Sender<String>) -> Self {
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if let Some(to) = &*listener() {
                    let _ = to.send(sentence(info));
                }
                // Afterwards: standard error may have a reader that does not read.
                usual(info);
            }));
        });
        *listener() = Some(to);
        Self
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        *listener() = None;
    }
}

/// Does a worker's work. A panic in it, or in any other thread of this process meanwhile, is told to the coordinator
/// as this worker's failure, which ends the job; it is also what is returned. One at a time in a process.
pub fn guarded<T>(session: &Session, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let (to, panics) = channel();
    let (connection, shared) = (session.connection.clone(), session.shared.clone());
    let teller = std::thread::Builder::new().name("panics".into()).spawn(move || {
        let first: Option<String> = panics.recv().ok();
        if let Some(first) = &first {
            connection.report_failure(
                shared.current().number(),
                first,
                FailureKind::Own,
                super::connection::ANSWER,
                || false,
            );
        }
        first
    });
    let listening = Listening::start(to);
    let done = catch_unwind(AssertUnwindSafe(work));
    drop(listening);
    let first = match teller {
        Ok(teller) => teller.join().ok().flatten(),
        Err(e) => Some(format!("cannot start a thread: {e}")).filter(|_| done.is_err()),
    };
    match (done, first) {
        (Ok(done), None) => Ok(done),
        (_, first) => Err(Panicked(first.unwrap_or_else(|| "a panic without a word".into()))),
    }
}
