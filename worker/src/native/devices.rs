//! GPUs, as the driver lists them. None of the calls here makes a context: a worker must not take memory on GPUs that
//! are another's. The order and the numbers are libtorch's (`CUDA_VISIBLE_DEVICES` is heeded).

use super::{NativeError, check};
use cudarc::driver::sys::{CUdevice_attribute as A, CUresult, cuDriverGetVersion, is_culib_present};
use cudarc::driver::{DriverError, result};
use std::ffi::c_char;
use std::fmt::Write;
use tch::Device;

/// One GPU, or one part of one (MIG).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The vendor's name.
    pub name: String,
    /// Compute capability, the part before the dot.
    pub major: u32,
    /// Compute capability, the part behind it.
    pub minor: u32,
    /// Bytes.
    pub memory: u64,
    /// Which one it is on this machine, however processes number it: `GPU-` and 32 hexadecimal digits.
    pub uuid: String,
}

/// What the driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// There is no `libcuda.so`.
    Absent,
    /// It cannot be used: its words.
    Failed(String),
    /// It is older than libtorch's CUDA part needs.
    TooOld(Versions),
    /// What it shows to this process.
    Shows(Vec<Gpu>),
}

/// The CUDA that libtorch's CUDA part was built for (`scripts/setup.sh --cuda`), as the driver counts: 13000 is 13.0.
const NEEDED: i32 = 13_000;

/// The oldest driver for Linux that has that CUDA.
const OLDEST: &str = "580.65.06";

/// What a driver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Its own version, e.g. `535.183.01`, where the kernel tells.
    pub driver: Option<String>,
    /// The newest CUDA it can run, as it counts: 12020 is 12.2.
    pub cuda: i32,
}

impl Versions {
    /// Whether it is older than libtorch's CUDA part needs.
    pub fn too_old(&self) -> bool {
        self.cuda < NEEDED
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dotted = |cuda: i32| format!("{}.{}", cuda / 1000, cuda % 1000 / 10);
        let driver = self.driver.as_deref().unwrap_or("of an unknown version");
        write!(f, "driver {driver} can run CUDA up to {}", dotted(self.cuda))?;
        if self.too_old() {
            write!(f, "; CUDA {} is needed, which driver {OLDEST} is the first to have", dotted(NEEDED))?;
        }
        Ok(())
    }
}

/// The driver's version in the text of `/proc/driver/nvidia/version`.
fn driver_version(text: &str) -> Option<String> {
    let numbered = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().find(|l| l.starts_with("NVRM"))?.split_whitespace().find(numbered).map(str::to_string)
}

/// What the driver is; none where there is none.
pub fn versions() -> Option<Versions> {
    // SAFETY: opens the library if it is there; the driver's initialisers may run at any time.
    if !unsafe { is_culib_present() } {
        return None;
    }
    let mut cuda = 0;
    // SAFETY: `cuda` is writable; the function needs no initialised driver.
    let told = unsafe { cuDriverGetVersion(&mut cuda) };
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    (told == CUresult::CUDA_SUCCESS).then(|| Versions { driver: driver_version(&text), cuda })
}

/// Asks the driver for the GPUs that this process sees.
pub fn driver() -> Driver {
    // SAFETY: opens the library if it is there; the driver's initialisers may run at any time.
    if !unsafe { is_culib_present() } {
        return Driver::Absent;
    }
    match listed() {
        Ok(gpus) => match versions().filter(Versions::too_old) {
            Some(old) if !gpus.is_empty() => Driver::TooOld(old),
            _ => Driver::Shows(gpus),
        },
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Driver::Shows(Vec::new()),
        Err(e) => Driver::Failed(e.to_string()),
    }
}

fn listed() -> Result<Vec<Gpu>, DriverError> {
    result::init()?;
    (0..result::device::get_count()?).map(gpu).collect()
}

fn gpu(ordinal: i32) -> Result<Gpu, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: the device was just given by the driver.
    let attribute = |a: A| unsafe { result::device::get_attribute(device, a) }.map(i32::unsigned_abs);
    let mut uuid = "GPU-".to_string();
    for byte in result::device::get_uuid(device)?.bytes {
        let _ = write!(uuid, "{:02x}", byte as u8);
    }
    Ok(Gpu {
        name: result::device::get_name(device)?,
        major: attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        minor: attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }? as u64,
        uuid,
    })
}

unsafe extern "C" {
    fn octrain_set_device(ordinal: i32) -> *mut c_char;
    fn octrain_set_tf32(on: bool) -> *mut c_char;
    #[cfg(test)]
    fn octrain_tf32(convolutions: *mut bool, products: *mut bool) -> *mut c_char;
}

/// Makes `device` the current one of the calling thread, before anything is allocated on it; does nothing for the CPU.
///
/// Every thread that calls CUDA or NCCL without libtorch in between must have done so: the current device of a new
/// thread is 0, whatever others have set. libtorch's own threads for backward set it themselves.
pub fn make_current(device: Device) -> Result<(), NativeError> {
    match device {
        // SAFETY: asks libtorch's CUDA part, if it is loaded, to set a number of this thread.
        Device::Cuda(ordinal) => unsafe { check(octrain_set_device(ordinal as i32)) },
        _ => Ok(()),
    }
}

/// Lets GPUs round the operands of FP32 convolutions and matrix products to TF32 (10 bits), from now on in this
/// process, or not; libtorch's own default is to do so in the former only.
pub fn allow_tf32(on: bool) -> Result<(), NativeError> {
    // SAFETY: sets flags of libtorch.
    unsafe { check(octrain_set_tf32(on)) }
}

/// Whether GPUs may use TF32, in convolutions and in matrix products.
#[cfg(test)]
pub(super) fn tf32_allowed() -> Result<[bool; 2], NativeError> {
    let [mut convolutions, mut products] = [false; 2];
    // SAFETY: both are writable; flags of libtorch are read.
    unsafe { check(octrain_tf32(&mut convolutions, &mut products)) }?;
    Ok([convolutions, products])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_names_both_versions_and_the_first_that_is_not() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc version 12.2.0";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build";
        assert_eq!(driver_version(text).as_deref(), Some("535.183.01"));
        assert_eq!(driver_version(open).as_deref(), Some("580.95.05"));
        assert_eq!(driver_version(""), None);
        let old = Versions { driver: driver_version(text), cuda: 12_020 };
        let told = old.to_string();
        assert!(old.too_old() && told.contains("535.183.01 can run CUDA up to 12.2"), "{told}");
        assert!(told.contains("CUDA 13.0 is needed") && told.contains("580.65.06"), "{told}");
        for cuda in [13_000, 13_010, 14_000] {
            let fine = Versions { driver: None, cuda };
            assert!(!fine.too_old() && !fine.to_string().contains("needed"), "{fine}");
        }
    }
}
