//! Tensors on their way to a GPU, beside what that computes.

use super::{NativeError, check, made};
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use tch::{Device, Tensor};

unsafe extern "C" {
    fn octrain_pinned(out: *mut *mut c_void, t: *const c_void) -> *mut c_char;
    fn octrain_upload(out: *mut *mut c_void, t: *const c_void, ordinal: i32) -> *mut c_char;
    fn octrain_arrived(out: *mut *mut c_void, upload: *mut c_void) -> *mut c_char;
    fn octrain_forget_upload(upload: *mut c_void);
}

/// A copy in memory that a GPU copies from while the host goes on, where there is a GPU; else the tensor itself.
pub fn pinned(t: Tensor) -> Result<Tensor, NativeError> {
    if !tch::Cuda::is_available() {
        return Ok(t);
    }
    // SAFETY: `t` is a live tensor, of which nothing is kept.
    made(|out| unsafe { octrain_pinned(out, t.as_ptr().cast()) })
}

/// A tensor that comes to a device.
#[derive(Debug)]
pub struct Upload(Where);

#[derive(Debug)]
enum Where {
    /// It is there.
    There(Tensor),
    /// An `OctrainUpload` of `device.cpp`, which is ours.
    OnItsWay(*mut c_void),
}

impl Upload {
    /// Begins to copy `t` to a device, on a stream of its own where that is a GPU. From pinned memory the host does not wait for
    /// it.
    pub fn begin(t: &Tensor, device: Device) -> Result<Self, NativeError> {
        let Device::Cuda(ordinal) = device else {
            let there = t.f_to_device(device).map_err(|e| NativeError(e.to_string()))?;
            return Ok(Self(Where::There(there)));
        };
        let mut upload = null_mut();
        // SAFETY: `t` is a live tensor; libtorch keeps pinned memory until a copy from it is done.
        unsafe { check(octrain_upload(&mut upload, t.as_ptr().cast(), ordinal as i32))? };
        Ok(Self(Where::OnItsWay(upload)))
    }

    /// The tensor. What the device computes from now on waits for it; the host does not.
    pub fn arrived(self) -> Result<Tensor, NativeError> {
        match &self.0 {
            Where::There(there) => Ok(there.shallow_clone()),
            // SAFETY: made by `begin`, and forgotten by `drop` alone.
            Where::OnItsWay(upload) => made(|out| unsafe { octrain_arrived(out, *upload) }),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Where::OnItsWay(upload) = self.0 {
            // SAFETY: made by `begin`, and forgotten once.
            unsafe { octrain_forget_upload(upload) };
        }
    }
}
