//! Binding, serving, ending.

use crate::accept::incoming;
use crate::chronicle::file::LAST_WORDS;
use crate::chronicle::line::Head;
use crate::chronicle::{EventFileError, Happening, Teller};
use crate::config::{Access, ConfigError, CoordinatorConfig};
use crate::driver::{self, Mailbox};
use crate::exit_code::{EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR};
use crate::fence::Fenced;
use crate::guard::Guard;
use crate::job::replay::{self, ReplayError};
use crate::job::{Job, Outcome};
use crate::journal::{Journal, JournalError, Opened, Record};
use crate::limits::MAX_REQUEST;
use crate::log;
use crate::outlet::Outlet;
use crate::service::Service;
use crate::term::Term;
use crate::tls::{TlsError, TlsFiles};
use octrain_proto::v1::coordinator_server::{CoordinatorServer, SERVICE_NAME};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

/// Calls under way on one connection; a worker needs a handful.
const STREAMS: u32 = 128;

/// Connections that wait to be taken in; the system may allow fewer (`net.core.somaxconn`).
const QUEUE: u32 = 4096;

/// Largest question for health, in bytes: the name of a service.
const MAX_HEALTH_REQUEST: usize = 1 << 10;

/// Why a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Port taken.
    #[error(
        "cannot listen on {listen}: the port is in use; stop what uses it, or choose another port (0: any free one)"
    )]
    PortInUse {
        /// The address.
        listen: String,
    },
    /// Any other refusal to bind.
    #[error(
        "cannot listen on {listen}: {source}; --listen takes HOST:PORT of this machine, e.g. 0.0.0.0:29400"
    )]
    Bind {
        /// The address.
        listen: String,
        /// The system's words.
        source: io::Error,
    },
    /// Anybody could end the job.
    #[error(
        "{address} is reached from other machines, and the job has neither token nor certificates, so that anybody there could end it: give a token with --token-file (or in OCTRAIN_TOKEN), certificates with --tls-ca, --tls-cert and --tls-key, listen on 127.0.0.1, or say --insecure if the network lets nobody in"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// A journal that cannot be opened, or kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An event file that cannot be written.
    #[error(transparent)]
    EventFile(#[from] EventFileError),
    /// A journal of something else.
    #[error("the journal {} {why}", path.display())]
    Replay {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: ReplayError,
    },
    /// No threads.
    #[error("cannot start the coordinator's threads: {0}")]
    Runtime(io::Error),
}

impl ServeError {
    /// The exit code of a coordinator that could not start.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Runtime(_) => EXIT_ERROR,
            ServeError::Journal(JournalError::Locked { .. } | JournalError::TakenOver { .. }) => EXIT_ABORTED,
            // A path that cannot be a journal's stays so; a full disk, or one that fails, does not.
            ServeError::Journal(JournalError::Io { source, .. }) => match source.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::InvalidFilename
                | io::ErrorKind::InvalidInput => EXIT_CONFIGURATION,
                _ => EXIT_ERROR,
            },
            _ => EXIT_CONFIGURATION,
        }
    }
}

/// The job that a coordinator begins or goes on with, where that is kept, and what is to be kept of its beginning.
struct Begun {
    job: Job,
    term: Term,
    journal: Option<Journal>,
    records: Vec<Record>,
}

/// Takes the journal, if there is to be one, and makes the job of it.
fn begin(config: &CoordinatorConfig) -> Result<Begun, ServeError> {
    // Names this process among coordinators that held the same address before, and is a part of members' names: who knows
    // one speaks for it, so none is to be guessed.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let incarnation = RandomState::new().hash_one((since, std::process::id()));
    // Told to the members alone, and no part of their names.
    let run = RandomState::new().hash_one((since, incarnation));
    let (mut job, mut term) = (Job::new(config, incarnation), Term { run, number: 1 });
    let Some(path) = &config.journal_file else {
        return Ok(Begun { job, term, journal: None, records: Vec::new() });
    };
    let Opened { journal, records: kept, cut } = Journal::open(path)?;
    let at = path.display();
    if cut > 0 {
        let text = format!(
            "the last {cut} bytes of {at} were never finished, and nobody was told of them: they are cut off"
        );
        log::warn(config.generation, &text);
    }
    let mut records = Vec::new();
    if kept.is_empty() {
        records.push(Record::Run(replay::run(config, run)));
    } else {
        let replayed = replay::replay(config, incarnation, &kept);
        let replayed = replayed.map_err(|why| ServeError::Replay { path: path.clone(), why })?;
        term = Term { run: replayed.run, number: replayed.term + 1 };
        job = replayed.job;
        let (number, told) = (term.number, replay::told(&job));
        log::info(
            job.generation,
            &format!("goes on with the job of {at}, as coordinator of term {number}: {told}"),
        );
    }
    job.term = term.number;
    records.push(Record::Term(term.number));
    Ok(Begun { job, term, journal: Some(journal), records })
}

/// A coordinator that serves, within a tokio runtime.
pub struct Serving {
    address: SocketAddr,
    mailbox: Mailbox,
    ended: watch::Receiver<Option<Outcome>>,
    over: watch::Receiver<Option<Outcome>>,
    /// Where events wait to be written.
    events: Option<Outlet>,
}

/// Who is let in, in words.
///
/// # Errors
/// When that would be anybody, and nobody has said so.
fn kept(address: SocketAddr, access: &Access) -> Result<&'static str, ServeError> {
    let local = address.ip().to_canonical().is_loopback();
    match (&access.token, &access.tls) {
        (Some(_), Some(_)) => {
            Ok("by TLS, for whoever has a certificate of the job's authority, and its token")
        }
        (None, Some(_)) => Ok("by TLS, for whoever has a certificate of the job's authority"),
        (Some(_), None) if local => Ok("for whoever has the job's token"),
        (Some(_), None) => Ok("for whoever has the job's token, which travels unencrypted"),
        (None, None) if local => Ok("for whoever is on this machine"),
        (None, None) if access.insecure => Ok("for anybody who reaches it (--insecure)"),
        (None, None) => Err(ServeError::Open { address }),
    }
}

/// Listens at the first of the addresses that `listen` means and that can be had. All workers of a job may come in one moment: a
/// shorter queue than the system allows has connections reset that were not taken in yet.
async fn bind(listen: &str) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "it means no address");
    for address in lookup_host(listen).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // What a coordinator before this one has left open does not keep the port.
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(QUEUE)) {
            Ok(listener) => return Ok(listener),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// Binds and serves on the current tokio runtime. Returns once the address is bound.
pub async fn start(config: CoordinatorConfig) -> Result<Serving, ServeError> {
    config.validate()?;
    let tls = config.access.tls.as_ref().map(TlsFiles::server).transpose()?.map(TlsAcceptor::from);
    let Begun { mut job, term, mut journal, records } = begin(&config)?;
    let head = Head::new(&config.job_id, term.run, term.number);
    let mut teller = match Teller::open(config.event_file.as_deref(), head.clone(), job.runs()) {
        Ok(teller) => teller,
        // A job that goes on does not end for it.
        Err(why) if term.number > 1 => {
            log::warn(job.generation, &format!("{why}; the job goes on without its events"));
            Teller::open(None, head, job.runs())?
        }
        Err(why) => return Err(why.into()),
    };
    let listen = config.listen.clone();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortInUse { listen: listen.clone() },
        _ => ServeError::Bind { listen: listen.clone(), source },
    };
    let listener = bind(&config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let kept = kept(address, &config.access)?;
    let opening = format!(
        "coordinator listens on {address}, job `{}`, {} workers, {kept}",
        config.job_id, config.world_size
    );
    // Only now, as the address is this one's as well.
    journal.iter_mut().try_for_each(|journal| journal.append(&records))?;
    let generation = config.generation;
    log::info(generation, &opening);
    teller.tell_of(Duration::ZERO, job.generation, started(address, &config, &job));
    teller.tell(job.ended_before(Duration::ZERO));
    let events = teller.outlet();
    let guard = Guard::new(config.access.token.clone(), generation);
    let term = journal.is_some().then_some(term);
    let (mailbox, driver) = driver::start(Arc::new(config), job, journal, teller);
    let health = health(mailbox.ended()).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let service =
        CoordinatorServer::new(Service { mailbox: mailbox.clone() }).max_decoding_message_size(MAX_REQUEST);
    let server = tokio::spawn(
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(STREAMS)
            // Who may not speak is neither told the term nor heard of another.
            .add_service(InterceptedService::new(
                Fenced { inner: service, term, mailbox: mailbox.clone() },
                guard.clone(),
            ))
            // Before the guard: it says that the coordinator is there, which whoever reaches it knows.
            .add_service(health)
            .serve_with_incoming_shutdown(
                incoming(listener, tls, guard, move |text| log::warn(generation, &text)),
                async {
                    let _ = stopped.await;
                },
            ),
    );
    let (tell_over, over) = watch::channel(None);
    let unwritten = events.clone();
    tokio::spawn(async move {
        let outcome = driver.await.expect("the driver does not panic");
        // Calls in flight get their replies; connections that idle are not waited for.
        let _ = stop.send(());
        let abort = server.abort_handle();
        if tokio::time::timeout(Duration::from_millis(500), server).await.is_err() {
            abort.abort();
        }
        // A disk that is too slow is not waited for; a thread that waits for it holds nobody up.
        let _ =
            tokio::task::spawn_blocking(move || unwritten.map(|events| events.drain(Some(LAST_WORDS)))).await;
        tell_over.send_replace(Some(outcome));
    });
    Ok(Serving { address, ended: mailbox.ended(), mailbox, over, events })
}

/// What a coordinator is when it begins.
fn started(address: SocketAddr, config: &CoordinatorConfig, job: &Job) -> Happening {
    Happening::CoordinatorStarted {
        address: address.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        world_size: config.world_size,
        min_world: config.min_world,
        max_world: config.max_world,
        phase: job.phase.name(),
    }
}

/// grpc.health.v1, for probes: as a whole it serves as long as it answers, and the coordinator's service until the job has ended, or
/// another coordinator has taken over.
async fn health(ended: watch::Receiver<Option<Outcome>>) -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
    tokio::spawn(async move {
        wait(ended).await;
        reporter.set_service_status(SERVICE_NAME, ServingStatus::NotServing).await;
    });
    server.max_decoding_message_size(MAX_HEALTH_REQUEST)
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the job ended, as soon as that is known.
    pub async fn ended(&self) -> Outcome {
        wait(self.ended.clone()).await
    }

    /// How the job ended, once every worker has heard of it (or has had time to) and the port is free.
    pub async fn over(&self) -> Outcome {
        wait(self.over.clone()).await
    }

    /// Ends the job; `why` is told to the workers.
    pub fn stop(&self, why: &str) {
        self.mailbox.stop(why);
    }
}

async fn wait(mut outcome: watch::Receiver<Option<Outcome>>) -> Outcome {
    let gone = || Outcome::Failed {
        abort: octrain_proto::v1::Abort {
            kind: octrain_proto::v1::AbortKind::Shutdown.into(),
            message: "the coordinator ended without an outcome".into(),
            culprit: None,
            saver: None,
        },
    };
    let value = outcome.wait_for(Option::is_some).await;
    value.ok().and_then(|o| o.clone()).unwrap_or_else(gone)
}

/// A coordinator inside another program, on threads of its own. Dropping it stops it.
pub struct Embedded {
    serving: Arc<Serving>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Binds and serves on threads of its own. Must not be called within a tokio runtime; there, use [`start`].
pub fn serve(config: CoordinatorConfig) -> Result<Embedded, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("coordinator")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let serving = Arc::new(runtime.block_on(start(config))?);
    Ok(Embedded { serving, runtime: Some(runtime) })
}

impl Embedded {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// How the job ended, if it has; does not wait.
    pub fn outcome(&self) -> Option<Outcome> {
        self.serving.ended.borrow().clone()
    }

    /// Waits until the job has ended, at most `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<Outcome> {
        let runtime = self.runtime.as_ref()?;
        runtime.block_on(async { tokio::time::timeout(timeout, self.serving.ended()).await.ok() })
    }

    /// Ends the job if it has not ended, tells the workers why, frees the port, and returns how it ended. Takes
    /// at most the configured linger and a second.
    pub fn shutdown(mut self, why: &str) -> Outcome {
        self.serving.stop(why);
        let runtime = self.runtime.take().expect("only taken here and in drop");
        let outcome = runtime.block_on(self.serving.over());
        runtime.shutdown_timeout(Duration::from_millis(500));
        outcome
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            // What is not written by then is lost with the process.
            let _ = self.serving.events.as_ref().map(|events| events.drain(Some(LAST_WORDS)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_disk_that_is_full_or_fails_may_be_another_time_and_a_path_that_is_none_stays_so() {
        for (errno, code) in [
            (Errno::NOSPC, EXIT_ERROR),
            (Errno::DQUOT, EXIT_ERROR),
            (Errno::IO, EXIT_ERROR),
            (Errno::MFILE, EXIT_ERROR),
            (Errno::STALE, EXIT_ERROR),
            (Errno::NOENT, EXIT_CONFIGURATION),
            (Errno::ACCESS, EXIT_CONFIGURATION),
            (Errno::ISDIR, EXIT_CONFIGURATION),
            (Errno::NOTDIR, EXIT_CONFIGURATION),
            (Errno::ROFS, EXIT_CONFIGURATION),
        ] {
            let e = JournalError::Io { what: "open", path: "journal".into(), source: errno.into() };
            assert_eq!(ServeError::from(e).exit_code(), code, "{errno:?}");
        }
    }
}
