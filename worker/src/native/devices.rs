//! GPUs, as the driver lists them. None of the calls here makes a context: a worker must not take memory on GPUs that
//! are another's. The order and the numbers are libtorch's (`CUDA_VISIBLE_DEVICES` is heeded).

use super::{NativeError, check};
use cudarc::driver::sys::{CUdevice_attribute as A, CUresult, is_culib_present};
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
    /// What it shows to this process.
    Shows(Vec<Gpu>),
}

/// Asks the driver for the GPUs that this process sees.
pub fn driver() -> Driver {
    // SAFETY: opens the library if it is there; the driver's initialisers may run at any time.
    if !unsafe { is_culib_present() } {
        return Driver::Absent;
    }
    match listed() {
        Ok(gpus) => Driver::Shows(gpus),
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
pub fn tf32_allowed() -> Result<[bool; 2], NativeError> {
    let [mut convolutions, mut products] = [false; 2];
    // SAFETY: both are writable; flags of libtorch are read.
    unsafe { check(octrain_tf32(&mut convolutions, &mut products)) }?;
    Ok([convolutions, products])
}
