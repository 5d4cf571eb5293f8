//! Where shared libraries lie.

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
