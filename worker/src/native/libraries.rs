//! Where shared libraries lie, and loading those that are optional.

use std::path::{Path, PathBuf};

/// Folder of the set-up's libraries: `OCTRAIN_DEPS`, else `../lib` beside an installed binary if it holds any,
/// else where this binary was built.
pub fn deps_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("OCTRAIN_DEPS").filter(|d| !d.is_empty()) {
        return dir.into();
    }
    let installed = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("lib")));
    match installed {
        Some(dir) if dir.join("openvino").is_dir() || dir.join("onnxruntime").is_dir() => dir,
        _ => Path::new(env!("OCTRAIN_BAKED_DEPS")).to_path_buf(),
    }
}

/// Makes libtorch's CUDA part available where set-up has put it, and the fake-quant kernels with it; says whether it
/// did. To be called before any tensor is made.
pub fn load_cuda() -> Result<bool, libloading::Error> {
    let library = deps_dir().join("libtorch-cuda/lib/libtorch_cuda.so");
    if !library.is_file() {
        return Ok(false);
    }
    let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
    // SAFETY: libtorch's own initialisers, meant to run at any time before use.
    let library = unsafe { libloading::os::unix::Library::open(Some(&library), flags)? };
    // It registers itself with libtorch for good.
    std::mem::forget(library);
    super::cuda::register();
    Ok(true)
}
