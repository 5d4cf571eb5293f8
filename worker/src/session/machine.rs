//! What this machine is and can do, for the coordinator's decisions.

use octrain_proto::v1::{Capabilities, CudaDevice};
use std::net::{ToSocketAddrs, UdpSocket};

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
        cpu_bf16: has("avx512_bf16") || has("amx_bf16") || has("bf16"),
        cpu_avx512: has("avx512f"),
        cpu_cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
    }
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

/// CUDA devices libtorch can use in this process (`CUDA_VISIBLE_DEVICES` is heeded); none where libtorch's CUDA
/// part is not loaded.
pub fn cuda_devices() -> Vec<CudaDevice> {
    use cudarc::driver::{CudaContext, sys::CUdevice_attribute as A};
    // Where libtorch finds none there may be no driver to ask either.
    let count = tch::Cuda::device_count();
    let device = |ordinal| -> Result<CudaDevice, cudarc::driver::DriverError> {
        let ctx = CudaContext::new(ordinal)?;
        Ok(CudaDevice {
            name: ctx.name()?,
            major: ctx.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            minor: ctx.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
            memory_bytes: ctx.total_mem()? as u64,
        })
    };
    let mut devices = Vec::new();
    for ordinal in 0..count.max(0) as usize {
        match device(ordinal) {
            Ok(d) => devices.push(d),
            // Later devices keep their indices only if all before them are there.
            Err(e) => {
                tracing::warn!("CUDA device {ordinal} cannot be used: {e}");
                break;
            }
        }
    }
    devices
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
