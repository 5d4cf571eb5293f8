//! NCCL's functions with checked answers: an error carries its number, its name and NCCL's last words.

use super::cause;
use super::sys::{Code, Comm, Config, Stream, Table, UniqueId};
use crate::collective::error::Trouble;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};

/// How a call that may go on in the background was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Taken, or done.
    Done,
    /// To be asked about again.
    InProgress,
}

/// What NCCL says of a call that it refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{function} answers {code} ({name}){last}{}", cause::advice(.last))]
pub(super) struct Refusal {
    function: &'static str,
    code: c_int,
    name: String,
    last: String,
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::new(cause::of_answer(refusal.code, &refusal.last), refusal)
    }
}

/// A communicator that was made and not yet freed. It may be used from any one thread at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(Comm);

// SAFETY: NCCL's communicators are not bound to a thread.
unsafe impl Send for Handle {}

/// Memory that a collective reads and writes: `count` elements at `from`, and what the call makes of them at `to`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    pub from: *const c_void,
    pub to: *mut c_void,
    pub count: usize,
    /// One of [`super::sys::datatype`].
    pub datatype: c_int,
}

/// A loaded NCCL.
pub struct Library {
    table: Table,
    file: OsString,
    version: c_int,
}

impl Library {
    /// Loads the file, or what the dynamic loader finds under a name without a slash, for good. The error is the dynamic
    /// loader's, or NCCL's own.
    pub fn open(file: &OsStr) -> Result<Self, String> {
        let table = Table::open(file).map_err(|e| loader_words(&e))?;
        let mut library = Self { table, file: file.into(), version: 0 };
        let mut version = 0;
        // SAFETY: `version` is writable.
        let code = unsafe { (library.table.get_version)(&mut version) };
        library.done("ncclGetVersion", code, None).map_err(|e| e.to_string())?;
        library.version = version;
        Ok(library)
    }

    /// As NCCL counts: 22809 is 2.28.9.
    pub fn version(&self) -> c_int {
        self.version
    }

    /// What was loaded.
    pub fn file(&self) -> &OsStr {
        &self.file
    }

    /// Whether this is a stand-in, which works on the host's memory.
    pub fn is_stand_in(&self) -> bool {
        self.table.stand_in_query.is_some()
    }

    fn text(p: *const c_char) -> String {
        match p.is_null() {
            true => String::new(),
            // SAFETY: a C string of NCCL's, which it keeps.
            false => unsafe { CStr::from_ptr(p) }.to_string_lossy().trim().to_string(),
        }
    }

    fn checked(&self, function: &'static str, code: Code, comm: Option<Handle>) -> Result<Answer, Refusal> {
        match code {
            Code::SUCCESS => Ok(Answer::Done),
            Code::IN_PROGRESS => Ok(Answer::InProgress),
            Code(number) => {
                let comm = comm.map_or(std::ptr::null_mut(), |h| h.0);
                // SAFETY: both take what NCCL has given and answer a string of NCCL's, or null.
                let (name, last) =
                    unsafe { ((self.table.error_string)(code), (self.table.last_error)(comm)) };
                let last = Self::text(last);
                let last = if last.is_empty() { last } else { format!(": {last}") };
                Err(Refusal { function, code: number, name: Self::text(name), last })
            }
        }
    }

    /// For functions that are done when they return.
    fn done(&self, function: &'static str, code: Code, comm: Option<Handle>) -> Result<(), Refusal> {
        match self.checked(function, code, comm)? {
            Answer::Done => Ok(()),
            Answer::InProgress => {
                let name = "in progress, where an answer was due".to_string();
                Err(Refusal { function, code: code.0, name, last: String::new() })
            }
        }
    }

    /// Whether NCCL can make the identifier of a group, for which it looks at the machine's network but at no GPU.
    pub fn try_identifier(&self) -> Result<(), String> {
        let id = self.unique_id().map_err(|e| e.to_string())?;
        if id.0 == [0; _] { Err("ncclGetUniqueId has left the identifier empty".into()) } else { Ok(()) }
    }

    /// A new identifier of a group.
    pub(super) fn unique_id(&self) -> Result<UniqueId, Refusal> {
        let mut id = UniqueId([0; _]);
        // SAFETY: `id` is writable.
        let code = unsafe { (self.table.get_unique_id)(&mut id) };
        self.done("ncclGetUniqueId", code, None).map(|()| id)
    }

    /// Begins to join the group. A communicator is there even while this is in progress, and mostly where it is refused,
    /// and is to be freed.
    pub(super) fn join(
        &self,
        id: UniqueId,
        rank: usize,
        world_size: usize,
    ) -> (Option<Handle>, Result<Answer, Refusal>) {
        let (mut comm, mut config) = (std::ptr::null_mut(), Config::non_blocking());
        // SAFETY: all pointers are valid during the call; NCCL copies the configuration.
        let code =
            unsafe { (self.table.comm_init)(&mut comm, world_size as c_int, id, rank as c_int, &mut config) };
        let made = (!comm.is_null()).then_some(Handle(comm));
        (made, self.checked("ncclCommInitRankConfig", code, None))
    }

    /// How the communicator's last call stands.
    pub(super) fn state(&self, comm: Handle) -> Result<Answer, Refusal> {
        let mut state = Code::SUCCESS;
        // SAFETY: the communicator is alive; `state` is writable.
        let asked = unsafe { (self.table.comm_async_error)(comm.0, &mut state) };
        self.done("ncclCommGetAsyncError", asked, Some(comm))?;
        self.checked("ncclCommGetAsyncError", state, Some(comm))
    }

    /// Begins the orderly end: what peers still wait for is sent.
    pub(super) fn finalize(&self, comm: Handle) -> Result<Answer, Refusal> {
        // SAFETY: the communicator is alive.
        let code = unsafe { (self.table.comm_finalize)(comm.0) };
        self.checked("ncclCommFinalize", code, Some(comm))
    }

    /// Frees a communicator that is finalized; it is not to be used again.
    pub(super) fn destroy(&self, comm: Handle) -> Result<(), Refusal> {
        // SAFETY: the communicator is alive and finalized.
        let code = unsafe { (self.table.comm_destroy)(comm.0) };
        self.checked("ncclCommDestroy", code, None).map(drop)
    }

    /// Ends whatever the communicator does and frees it; it is not to be used again.
    pub(super) fn abort(&self, comm: Handle) {
        // SAFETY: the communicator is alive. Its answer changes nothing: it is gone either way.
        unsafe { (self.table.comm_abort)(comm.0) };
    }

    /// Whether a stand-in's work on host memory is done.
    pub(super) fn stand_in_idle(&self, comm: Handle) -> Option<bool> {
        // SAFETY: the communicator is alive.
        self.table.stand_in_query.map(|query| unsafe { query(comm.0) } == 0)
    }

    /// Whether a stand-in's device has done what this rank gave it besides collectives.
    pub(super) fn stand_in_quiet(&self, rank: usize) -> Option<bool> {
        // SAFETY: it takes any number.
        self.table.stand_in_quiet.map(|quiet| unsafe { quiet(rank as c_int) } == 0)
    }

    /// # Safety
    /// The buffers lie where the communicator's rank computes, are as large as the call needs, and stay until the work
    /// on `stream` is done. So for the other two.
    pub(super) unsafe fn all_reduce(
        &self,
        b: Buffers,
        op: c_int,
        comm: Handle,
        stream: Stream,
    ) -> Result<Answer, Refusal> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.table.all_reduce)(b.from, b.to, b.count, b.datatype, op, comm.0, stream) };
        self.checked("ncclAllReduce", code, Some(comm))
    }

    /// # Safety
    /// As for `all_reduce`.
    pub(super) unsafe fn broadcast(
        &self,
        b: Buffers,
        root: usize,
        comm: Handle,
        stream: Stream,
    ) -> Result<Answer, Refusal> {
        let root = root as c_int;
        // SAFETY: the caller's promise.
        let code = unsafe { (self.table.broadcast)(b.from, b.to, b.count, b.datatype, root, comm.0, stream) };
        self.checked("ncclBroadcast", code, Some(comm))
    }

    /// # Safety
    /// As for `all_reduce`; `to` holds `count` elements of every rank.
    pub(super) unsafe fn all_gather(
        &self,
        b: Buffers,
        comm: Handle,
        stream: Stream,
    ) -> Result<Answer, Refusal> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.table.all_gather)(b.from, b.to, b.count, b.datatype, comm.0, stream) };
        self.checked("ncclAllGather", code, Some(comm))
    }
}
/// What the dynamic loader says; the error itself says only which of its calls failed.
fn loader_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
