//! What OpenVINO ran, node by node. The `openvino` crate has no call for it, so this goes through the C interface.

use super::NativeError;
use openvino_sys as ov;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};

/// One node of the compiled network that was executed.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutedNode {
    /// Its name; fused nodes keep the name of one of their parts.
    pub name: String,
    /// What it does, e.g. `Convolution`.
    pub kind: String,
    /// The kernel that ran, e.g. `brgconv_avx512_I8`.
    pub kernel: String,
    /// Microseconds.
    pub micros: i64,
}

/// An object of OpenVINO, freed when it is dropped.
struct Owned<T>(*mut T, unsafe fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the call that `made` wraps, belongs to this object alone and is freed once,
        // by the function that OpenVINO names for it.
        unsafe { (self.1)(self.0) }
    }
}

fn check(what: &str, status: ov::ov_status_e) -> Result<(), NativeError> {
    if status == ov::ov_status_e::OK {
        return Ok(());
    }
    // SAFETY: the library is loaded; the message is a C string (or null) that stays until its next call.
    let said = unsafe { text(ov::ov_get_last_err_msg()) };
    Err(NativeError(format!("cannot {what}: {status:?} {}", said.trim())))
}

/// Makes an object: `call` writes its address.
fn made<T>(
    what: &str,
    free: unsafe fn(*mut T),
    call: impl FnOnce(*mut *mut T) -> ov::ov_status_e,
) -> Result<Owned<T>, NativeError> {
    let mut object = null_mut();
    check(what, call(&mut object))?;
    Ok(Owned(object, free))
}

/// # Safety
/// `s` is null or a C string.
unsafe fn text(s: *const c_char) -> String {
    if s.is_null() {
        return String::new();
    }
    // SAFETY: a C string by contract.
    unsafe { CStr::from_ptr(s) }.to_string_lossy().into_owned()
}

fn c_string(s: &str) -> Result<CString, NativeError> {
    CString::new(s).map_err(|_| NativeError(format!("`{}` holds a zero byte", s.escape_debug())))
}

/// Compiles the ONNX file `model` for the CPU with `properties`, runs it once on zeros and returns the nodes that
/// ran. `inputs` are names and shapes, which are made the network's own unless they are to be run `as_it_is`.
/// `openvino_sys::library::load_from` must have been called.
pub fn executed_nodes(
    model: &[u8],
    inputs: &[(&str, &[i64])],
    as_it_is: bool,
    properties: &[(&str, &str)],
) -> Result<Vec<ExecutedNode>, NativeError> {
    let cpu = c"CPU".as_ptr();
    // SAFETY: writes the address of a new core.
    let core = made("start", ov::ov_core_free, |out| unsafe { ov::ov_core_create(out) })?;
    for (key, value) in properties.iter().copied().chain([("PERF_COUNT", "YES")]) {
        let (key, value) = (c_string(key)?, c_string(value)?);
        // SAFETY: all are C strings that live through the call.
        let set = unsafe { ov::ov_core_set_property(core.0, cpu, key.as_ptr(), value.as_ptr()) };
        check("set a property", set)?;
    }
    let network = made("read the file", ov::ov_model_free, |out| {
        // SAFETY: the buffer is as long as is said and is copied; there are no separate weights.
        unsafe {
            ov::ov_core_read_model_from_memory_buffer(core.0, model.as_ptr().cast(), model.len(), null(), out)
        }
    })?;
    if !as_it_is {
        reshape(&network, inputs)?;
    }
    let compiled = made("compile the network", ov::ov_compiled_model_free, |out| {
        // SAFETY: no properties are given, so no variable arguments are read.
        unsafe { ov::ov_core_compile_model_props(core.0, network.0, cpu, 0, null(), out) }
    })?;
    let request = made("make a request", ov::ov_infer_request_free, |out| {
        // SAFETY: the compiled network is live.
        unsafe { ov::ov_compiled_model_create_infer_request(compiled.0, out) }
    })?;
    for (i, (_, dims)) in inputs.iter().enumerate() {
        zero_input(&request, i, dims)?;
    }
    // SAFETY: the request is live and its inputs hold numbers.
    check("run", unsafe { ov::ov_infer_request_infer(request.0) })?;
    profile_of(&request)
}

fn reshape(network: &Owned<ov::ov_model_t>, inputs: &[(&str, &[i64])]) -> Result<(), NativeError> {
    let names = inputs.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let mut shapes = Vec::new();
    let mut failed = Ok(());
    for (_, dims) in inputs {
        let mut shape = std::mem::MaybeUninit::uninit();
        // SAFETY: `dims` has as many numbers as is said; on success `shape` is written.
        let status = unsafe {
            ov::ov_partial_shape_create_static(dims.len() as i64, dims.as_ptr(), shape.as_mut_ptr())
        };
        failed = check("make a shape", status);
        if failed.is_err() {
            break;
        }
        // SAFETY: written, as the call succeeded.
        shapes.push(unsafe { shape.assume_init() });
    }
    if failed.is_ok() {
        let mut pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
        // SAFETY: names and shapes are arrays of the length given, and live.
        let status =
            unsafe { ov::ov_model_reshape(network.0, pointers.as_mut_ptr(), shapes.as_ptr(), shapes.len()) };
        failed = check("set the input's shape", status);
    }
    for shape in &mut shapes {
        // SAFETY: made above, freed once.
        unsafe { ov::ov_partial_shape_free(shape) };
    }
    failed
}

fn zero_input(
    request: &Owned<ov::ov_infer_request_t>,
    index: usize,
    dims: &[i64],
) -> Result<(), NativeError> {
    let tensor = made("give its input", ov::ov_tensor_free, |out| {
        // SAFETY: the request is live; an index out of range is an error of the call.
        unsafe { ov::ov_infer_request_get_input_tensor_by_index(request.0, index, out) }
    })?;
    let mut shape = std::mem::MaybeUninit::uninit();
    // SAFETY: `dims` has as many numbers as is said; on success `shape` is written.
    let status = unsafe { ov::ov_shape_create(dims.len() as i64, dims.as_ptr(), shape.as_mut_ptr()) };
    check("make a shape", status)?;
    // SAFETY: written, as the call succeeded.
    let mut shape = unsafe { shape.assume_init() };
    // SAFETY: tensor and shape are live; the shape is copied.
    let set = unsafe { ov::ov_tensor_set_shape(tensor.0, shape) };
    // SAFETY: made above, freed once.
    unsafe { ov::ov_shape_free(&mut shape) };
    check("set its input's shape", set)?;
    let (mut data, mut bytes) = (null_mut(), 0usize);
    // SAFETY: the tensor is live and outputs are valid for writing.
    check("give its input", unsafe { ov::ov_tensor_get_byte_size(tensor.0, &mut bytes) })?;
    // SAFETY: as above.
    check("give its input", unsafe { ov::ov_tensor_data(tensor.0, &mut data) })?;
    // SAFETY: the tensor's memory is `bytes` long and nothing else uses it now.
    unsafe { std::ptr::write_bytes(data.cast::<u8>(), 0, bytes) };
    Ok(())
}

fn profile_of(request: &Owned<ov::ov_infer_request_t>) -> Result<Vec<ExecutedNode>, NativeError> {
    let mut list = ov::ov_profiling_info_list_t { profiling_infos: null_mut(), size: 0 };
    // SAFETY: the request is live and the list valid for writing.
    check("give its profile", unsafe { ov::ov_infer_request_get_profiling_info(request.0, &mut list) })?;
    let infos = if list.size == 0 {
        &[]
    } else {
        // SAFETY: on success the list holds `size` entries until it is freed below.
        unsafe { std::slice::from_raw_parts(list.profiling_infos, list.size) }
    };
    let ran = infos.iter().filter(|i| i.status == ov::ov_profiling_info_t_Status::EXECUTED);
    let nodes = ran
        .map(|i| {
            // SAFETY: the three are C strings of the list.
            let [name, kind, kernel] = [i.node_name, i.node_type, i.exec_type].map(|s| unsafe { text(s) });
            ExecutedNode { name, kind, kernel, micros: i.real_time }
        })
        .collect();
    // SAFETY: made by the call above; `infos` is not used after.
    unsafe { ov::ov_profiling_info_list_free(&mut list) };
    Ok(nodes)
}
