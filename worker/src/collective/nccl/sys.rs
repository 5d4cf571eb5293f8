//! NCCL's C interface: the types that its public header declares (`nccl.h` of NCCL 2.28.9), and a table of the
//! functions used here, filled from a named file. A newer NCCL takes the structures of 2.28, whose size and version
//! they carry.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{OsStr, c_char, c_int, c_uint, c_void};

/// `ncclResult_t`. A plain number: a newer NCCL may answer one that is not listed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Code(pub c_int);

impl Code {
    /// `ncclSuccess`.
    pub const SUCCESS: Code = Code(0);
    /// `ncclInProgress`.
    pub const IN_PROGRESS: Code = Code(7);
}

/// `ncclComm_t`.
pub(super) type Comm = *mut c_void;

/// Bytes of a `ncclUniqueId`.
pub(super) const UNIQUE_ID_BYTES: usize = 128;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub [u8; UNIQUE_ID_BYTES]);

/// `ncclConfig_t` as `ncclConfig_v22800`.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
    comm_name: *const c_char,
    collnet_enable: c_int,
    cta_policy: c_int,
    shrink_share: c_int,
    nvls_ctas: c_int,
    n_channels_per_net_peer: c_int,
    nvlink_centric_sched: c_int,
}

/// `NCCL_CONFIG_UNDEF_INT`.
const UNDEFINED: c_int = c_int::MIN;

impl Config {
    /// `NCCL_CONFIG_INITIALIZER` of NCCL 2.28.9, but for `blocking`: calls return at once and are polled.
    pub fn non_blocking() -> Self {
        Self {
            size: std::mem::size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 22_809,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
            comm_name: std::ptr::null(),
            collnet_enable: UNDEFINED,
            cta_policy: UNDEFINED,
            shrink_share: UNDEFINED,
            nvls_ctas: UNDEFINED,
            n_channels_per_net_peer: UNDEFINED,
            nvlink_centric_sched: UNDEFINED,
        }
    }
}

/// `ncclDataType_t`.
pub(super) mod datatype {
    use std::ffi::c_int;
    pub const UINT8: c_int = 1;
    pub const INT64: c_int = 4;
    pub const FLOAT16: c_int = 6;
    pub const FLOAT32: c_int = 7;
    pub const FLOAT64: c_int = 8;
    pub const BFLOAT16: c_int = 9;
}

/// `ncclRedOp_t`.
pub(super) mod operation {
    use std::ffi::c_int;
    pub const SUM: c_int = 0;
    pub const MAX: c_int = 2;
}

/// `cudaStream_t`.
pub(super) type Stream = *mut c_void;

macro_rules! table {
    ($($field:ident = $symbol:literal: fn($($type:ty),*) -> $answer:ty;)*) => {
        /// The functions, each as NCCL's header declares it.
        pub(super) struct Table {
            $(pub $field: unsafe extern "C" fn($($type),*) -> $answer,)*
            /// What a stand-in has besides: whether the communicator's work on host memory is done (0), goes on (1).
            pub stand_in_query: Option<unsafe extern "C" fn(Comm) -> c_int>,
            /// And whether a rank's device has done what it was given besides (0), or does not end it (1).
            pub stand_in_quiet: Option<unsafe extern "C" fn(c_int) -> c_int>,
        }

        impl Table {
            /// Loads the file for good, as a dynamic loader does: a name without a slash is looked for.
            pub fn open(file: &OsStr) -> Result<Self, libloading::Error> {
                // Its own functions before those of another NCCL that libtorch has brought along.
                let flags = RTLD_NOW | RTLD_LOCAL | libc::RTLD_DEEPBIND;
                // SAFETY: the initialisers of NCCL, or of what the user names in its place, are meant to run at any time.
                let library = unsafe { Library::open(Some(file), flags)? };
                // It may have threads of its own, so it is never unloaded.
                let library = std::mem::ManuallyDrop::new(library);
                // SAFETY: each symbol has the type that the header gives it; the library stays.
                unsafe {
                    Ok(Self {
                        $($field: *library.get($symbol.as_bytes())?,)*
                        stand_in_query: library.get(b"octrain_stand_in_query").ok().map(|s| *s),
                        stand_in_quiet: library.get(b"octrain_stand_in_quiet").ok().map(|s| *s),
                    })
                }
            }
        }
    };
}

table! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> Code;
    get_unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> Code;
    comm_init = "ncclCommInitRankConfig": fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Code;
    comm_finalize = "ncclCommFinalize": fn(Comm) -> Code;
    comm_destroy = "ncclCommDestroy": fn(Comm) -> Code;
    comm_abort = "ncclCommAbort": fn(Comm) -> Code;
    comm_async_error = "ncclCommGetAsyncError": fn(Comm, *mut Code) -> Code;
    error_string = "ncclGetErrorString": fn(Code) -> *const c_char;
    last_error = "ncclGetLastError": fn(Comm) -> *const c_char;
    all_reduce = "ncclAllReduce":
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Code;
    broadcast = "ncclBroadcast":
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Code;
    all_gather = "ncclAllGather":
        fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Code;
}
