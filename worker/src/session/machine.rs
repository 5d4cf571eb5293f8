//! What this machine is and can do, for the coordinator's decisions.

use crate::native;
use crate::native::devices::{self, Driver};
use crate::strategy::DeviceChoice;
use octrain_proto::v1::{Capabilities, CudaDevice};
use std::net::{ToSocketAddrs, UdpSocket};
use std::path::Path;

/// Name of this host: `OCTRAIN_HOST`, else the kernel's host name.
pub fn host_name() -> String {
    let given = std::env::var("OCTRAIN_HOST").ok().filter(|h| !h.is_empty());
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|h| h.trim().to_string());
    given.or_else(kernel).filter(|h| !h.is_empty()).unwrap_or_else(|| "localhost".into())
}

/// The address other hosts reach this one at: `OCTRAIN_ADDRESS`, else that of the interface from which the
/// coordinator (`HOST:PORT`) is reached. Nothing is sent.
pub fn address_towards(coordinator: &str) -> std::io::Result<String> {
    if let Some(given) = std::env::var("OCTRAIN_ADDRESS").ok().filter(|a| !a.is_empty()) {
        return Ok(given);
    }
    let target = coordinator.trim_start_matches("http://");
    let first = target.to_socket_addrs()?.next();
    let first = first.ok_or_else(|| std::io::Error::other(format!("{target} has no address")))?;
    let any = if first.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(first)?;
    Ok(socket.local_addr()?.ip().to_string())
}

/// Capabilities of this machine, with the CUDA devices this worker may use (see [`cuda_devices`]).
pub fn capabilities(cuda_devices: Vec<CudaDevice>) -> Capabilities {
    let flags = cpu_flags(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    Capabilities {
        cuda_devices,
        cpu_bf16: native::bf16_products(),
        cpu_avx512: has("avx512f"),
        cpu_int8: native::int8_products(),
        cpu_cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
    }
}

/// The model of this host's CPU, as the system names it.
pub fn cpu_model() -> String {
    model(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()).unwrap_or("unknown").to_string()
}

/// The model of the first CPU in the text of `/proc/cpuinfo`.
fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|l| l.starts_with("model name") || l.starts_with("CPU part"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

/// Flags of the first CPU in the text of `/proc/cpuinfo` (`flags` on x86, `Features` on ARM).
fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find(|l| l.starts_with("flags") || l.starts_with("Features"));
    let flags = line.and_then(|l| l.split_once(':')).map_or("", |(_, f)| f);
    flags.split_whitespace().map(str::to_string).collect()
}

/// Main memory in bytes from the text of `/proc/meminfo`; 0 when it does not say.
fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// A GPU that cannot be used although it is there, or was asked for. It is never left unused without a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The CUDA set is missing.
    #[error(
        "this machine has a GPU ({gpu}), but libtorch's CUDA part is not in {place}: run scripts/setup.sh --cuda, or say --device cpu"
    )]
    NoLibraries {
        /// The GPU, or how it is known that there is one.
        gpu: String,
        /// Where the libraries were looked for.
        place: String,
    },
    /// There is no driver's library.
    #[error(
        "this machine has a GPU, but its driver cannot be used (libcuda.so.1 is not found): install the driver, or say --device cpu"
    )]
    NoDriver,
    /// The driver does not work.
    #[error(
        "this machine has a GPU, but its driver cannot be used ({why}): mend the driver, or say --device cpu"
    )]
    Driver {
        /// Its words.
        why: String,
    },
    /// The driver is older than the CUDA set needs.
    #[error(
        "this machine has a GPU, but its driver is too old ({0}): install a newer driver, or say --device cpu"
    )]
    OldDriver(devices::Versions),
    /// The CUDA set does not load.
    #[error(
        "libtorch's CUDA part cannot be loaded: {0}; run scripts/setup.sh --cuda again, or say --device cpu"
    )]
    Load(String),
}

/// Which GPUs this process may use, from what the driver says, whether there are device files of GPUs, and whether
/// libtorch's CUDA part is where it should be. No GPU at all is no error: the coordinator decides what that means.
fn usable(
    driver: Driver,
    files: bool,
    library: &Path,
    installed: bool,
) -> Result<Vec<CudaDevice>, CudaError> {
    let lacks = |gpu: &str| CudaError::NoLibraries { gpu: gpu.into(), place: library.display().to_string() };
    match driver {
        Driver::Shows(gpus) => match gpus.first() {
            Some(first) if !installed => Err(lacks(&first.name)),
            _ => Ok(gpus.into_iter().map(told).collect()),
        },
        Driver::TooOld(versions) => Err(CudaError::OldDriver(versions)),
        Driver::Absent | Driver::Failed(_) if files && !installed => Err(lacks("/dev/nvidia0 or the like")),
        Driver::Absent if files => Err(CudaError::NoDriver),
        Driver::Failed(why) if files => Err(CudaError::Driver { why }),
        // A driver's library without a GPU, as in an image built for GPUs.
        Driver::Absent | Driver::Failed(_) => Ok(Vec::new()),
    }
}

fn told(gpu: devices::Gpu) -> CudaDevice {
    let devices::Gpu { name, major, minor, memory, uuid } = gpu;
    CudaDevice { name, major, minor, memory_bytes: memory, uuid }
}

/// Whether a folder like `/dev` has device files of NVIDIA GPUs.
fn has_gpu_files(dev: &Path) -> bool {
    let numbered = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = std::fs::read_dir(dev).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_str().is_some_and(numbered))
}

/// Names of the GPUs that the driver shows this process; none without a driver. Nothing of CUDA's is loaded but the driver.
pub fn gpu_names() -> Vec<String> {
    match devices::driver() {
        Driver::Shows(gpus) => gpus.into_iter().map(|gpu| gpu.name).collect(),
        _ => Vec::new(),
    }
}

/// CUDA devices this process may use (`CUDA_VISIBLE_DEVICES` is heeded), with libtorch's CUDA part loaded if there is
/// one; none where the CPU is asked for. No context is made on any of them.
pub fn cuda_devices(wanted: DeviceChoice) -> Result<Vec<CudaDevice>, CudaError> {
    if wanted == DeviceChoice::Cpu {
        return Ok(Vec::new());
    }
    let library = native::cuda_library();
    let found = usable(devices::driver(), has_gpu_files(Path::new("/dev")), &library, library.is_file())?;
    if !found.is_empty() {
        native::load_cuda().map_err(|e| CudaError::Load(e.to_string()))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        let cpu = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\nprocessor : 1\nflags : fpu\n";
        assert_eq!(cpu_flags(cpu), ["fpu", "avx512f", "avx512_bf16"]);
        assert_eq!(cpu_flags("Features\t: fp asimd bf16"), ["fp", "asimd", "bf16"]);
        assert!(cpu_flags("").is_empty());
        assert_eq!(memory_bytes("MemTotal:       24576 kB\nMemFree: 1 kB"), 24576 * 1024);
        assert_eq!(memory_bytes("nothing"), 0);
        assert_eq!(model("processor : 0\nmodel name\t: A CPU @ 2 GHz\n"), Some("A CPU @ 2 GHz"));
        assert_eq!(model("processor : 0\n"), None);
    }

    #[test]
    fn a_gpu_is_never_left_unused_without_a_word() {
        let gpu = || devices::Gpu {
            name: "H200".into(),
            major: 9,
            minor: 0,
            memory: 1 << 37,
            uuid: "GPU-5d".into(),
        };
        let failed = || Driver::Failed("system has unsupported display driver".into());
        let old = || Driver::TooOld(devices::Versions { driver: Some("535.183.01".into()), cuda: 12_020 });
        let place = Path::new("deps/libtorch_cuda.so");
        // (driver, device files, installed) -> number of GPUs, or words of the error
        let cases: [(Driver, bool, bool, Result<usize, &str>); 13] = [
            (Driver::Shows(vec![gpu(), gpu()]), true, true, Ok(2)),
            (Driver::Shows(vec![gpu()]), true, false, Err("H200")),
            (Driver::Shows(vec![gpu()]), false, false, Err("scripts/setup.sh --cuda")),
            // Hidden on purpose: CUDA_VISIBLE_DEVICES is empty.
            (Driver::Shows(vec![]), true, true, Ok(0)),
            (Driver::Shows(vec![]), true, false, Ok(0)),
            (Driver::Absent, true, false, Err("scripts/setup.sh --cuda")),
            (Driver::Absent, true, true, Err("libcuda.so.1")),
            (Driver::Absent, false, true, Ok(0)),
            (Driver::Absent, false, false, Ok(0)),
            (failed(), true, true, Err("unsupported display driver")),
            (failed(), false, true, Ok(0)),
            (old(), true, true, Err("535.183.01 can run CUDA up to 12.2; CUDA 13.0 is needed")),
            (old(), false, false, Err("580.65.06")),
        ];
        for (driver, files, installed, want) in cases {
            let case = format!("{driver:?} {files} {installed}");
            match (usable(driver, files, place, installed), want) {
                (Ok(found), Ok(count)) => assert_eq!(found.len(), count, "{case}"),
                (Err(e), Err(words)) => {
                    let e = e.to_string();
                    assert!(e.contains(words) && e.contains("--device cpu"), "{case}: {e}");
                }
                (got, want) => panic!("{case}: {got:?}, not {want:?}"),
            }
        }
        assert_eq!(usable(Driver::Shows(vec![gpu()]), true, place, true).unwrap()[0].uuid, "GPU-5d");
    }

    #[test]
    fn device_files_of_gpus_are_known_by_their_numbers() {
        let dev = tempfile::tempdir().unwrap();
        let file = |name: &str| std::fs::write(dev.path().join(name), "").unwrap();
        ["nvidiactl", "nvidia-uvm", "nvidia", "null"].into_iter().for_each(file);
        assert!(!has_gpu_files(dev.path()) && !has_gpu_files(Path::new("no such folder")));
        file("nvidia3");
        assert!(has_gpu_files(dev.path()));
    }

    #[test]
    fn the_loopback_is_reached_from_the_loopback() {
        assert_eq!(address_towards("127.0.0.1:29400").unwrap(), "127.0.0.1");
        assert!(address_towards("no-such-host.invalid:1").is_err());
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_name() {
        let c = capabilities(Vec::new());
        assert!(c.cpu_cores > 0 && c.memory_bytes > 0 && !host_name().is_empty());
    }
}
