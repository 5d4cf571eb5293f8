//! Compiling CUDA source with NVRTC, which needs no GPU.

use super::NativeError;
use super::libraries::deps_dir;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;

/// Products and sums are rounded each, subnormal numbers are kept, and quotients are rounded correctly.
const OPTIONS: [&str; 5] =
    ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];

/// Where NVRTC of the CUDA set-up is, or of the tests'.
fn folder() -> Option<PathBuf> {
    let folders = ["libtorch-cuda/lib", "nvrtc/lib"].map(|folder| deps_dir().join(folder));
    folders.into_iter().find(|folder| folder.join("libnvrtc.so").exists())
}

/// Loads NVRTC for good.
fn load() -> Result<(), NativeError> {
    if let Some(folder) = folder() {
        // It opens its builtins by a name that is on no search path, and cudarc opens NVRTC itself so. A library that
        // is loaded already is found by its name.
        for file in ["libnvrtc-builtins.so", "libnvrtc.so"] {
            let file = folder.join(file);
            // SAFETY: NVRTC's own initialisers, meant to run at any time before use.
            let opened = unsafe { libloading::Library::new(&file) };
            std::mem::forget(opened.map_err(|e| NativeError(format!("{}: {e}", file.display())))?);
        }
    }
    // SAFETY: opens the library if the system or the lines above have it.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    let folder = deps_dir();
    Err(NativeError(format!(
        "NVRTC (libnvrtc.so.13) is not in {}; run scripts/setup.sh --cuda",
        folder.display()
    )))
}

/// A program being compiled.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `create_program` and destroyed once. Failing to is a leak at worst.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program is alive.
        match unsafe { result::get_program_log(self.0) } {
            // SAFETY: NVRTC ends the log with 0.
            Ok(log) => unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().trim().to_string(),
            Err(e) => format!("no log: {e:?}"),
        }
    }

    /// Machine code.
    fn cubin(&self) -> Result<Vec<u8>, result::NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is alive and compiled.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) }.result()?;
        let mut code = vec![0u8; size];
        // SAFETY: as above, and `code` has the size NVRTC has asked for.
        unsafe { sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast::<c_char>()) }.result()?;
        Ok(code)
    }

    /// Assembly, ending with 0.
    fn ptx(&self) -> Result<Vec<u8>, result::NvrtcError> {
        // SAFETY: the program is alive and compiled.
        let text = unsafe { result::get_ptx(self.0) }?;
        Ok(text.into_iter().map(|c| c as u8).collect())
    }
}

/// Compiles CUDA `source`, called `name` in messages, for `arch`: machine code for `sm_90` and the like, PTX for
/// `compute_90` and the like. Either can be loaded as a module. The error is the compiler's own message.
pub fn compile(source: &str, name: &str, arch: &str) -> Result<Vec<u8>, NativeError> {
    compile_and_tell(source, name, arch, &[]).map(|(code, _)| code)
}

/// [`compile`] with options besides, and what the compiler says about it.
pub(super) fn compile_and_tell(
    source: &str,
    name: &str,
    arch: &str,
    besides: &[&str],
) -> Result<(Vec<u8>, String), NativeError> {
    load()?;
    let failed =
        |what: &str, e: result::NvrtcError| NativeError(format!("NVRTC, {name} for {arch}: {what}: {e:?}"));
    let c = |text: &str| CString::new(text).map_err(|e| NativeError(format!("{name}: {e}")));
    let (source, title) = (c(source)?, c(name)?);
    let program = Program(result::create_program(&source, Some(&title)).map_err(|e| failed("create", e))?);
    let mut options: Vec<String> = OPTIONS.map(str::to_string).to_vec();
    options.push(format!("--gpu-architecture={arch}"));
    options.extend(besides.iter().map(ToString::to_string));
    // SAFETY: the program is alive, as are its source and name.
    if unsafe { result::compile_program(program.0, &options) }.is_err() {
        return Err(NativeError(format!("NVRTC, {name} for {arch}:\n{}", program.log())));
    }
    let code = if arch.starts_with("sm_") { program.cubin() } else { program.ptx() };
    Ok((code.map_err(|e| failed("result", e))?, program.log()))
}
