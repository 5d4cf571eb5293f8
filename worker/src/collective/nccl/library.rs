//! Which NCCL is loaded: the one that `OCTRAIN_NCCL` names, else that of the CUDA set-up, else the system's.

use super::result::Library;
use crate::collective::CollectiveError;
use crate::native::libraries::deps_dir;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Environment variable that names the NCCL to load, in place of all others: a newer one, say, or a stand-in.
pub const OVERRIDE: &str = "OCTRAIN_NCCL";

/// The name under which NCCL 2 is known to the dynamic loader.
const SYSTEM: &str = "libnccl.so.2";

/// What to try, in order: files, and a name that the dynamic loader looks for.
fn candidates(named: Option<OsString>, deps: &Path) -> Vec<OsString> {
    match named.filter(|n| !n.is_empty()) {
        // What was asked for, or nothing.
        Some(named) => vec![named],
        None => vec![deps.join("libtorch-cuda/lib").join(SYSTEM).into(), SYSTEM.into()],
    }
}

/// The first that can be loaded; otherwise why each cannot.
fn first(candidates: &[OsString]) -> Result<Library, CollectiveError> {
    let mut tried = Vec::new();
    for file in candidates {
        match Library::open(file) {
            Ok(library) => return Ok(library),
            Err(why) => tried.push(format!("{}: {why}", file.display())),
        }
    }
    Err(CollectiveError::NoNccl(tried.join("; ")))
}

/// This process's NCCL, loaded when it is first asked for. The error names every place tried.
pub fn load() -> Result<&'static Library, CollectiveError> {
    static LOADED: Mutex<Option<&'static Library>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = *loaded {
        return Ok(library);
    }
    let library: &'static Library =
        Box::leak(Box::new(first(&candidates(std::env::var_os(OVERRIDE), &deps_dir()))?));
    tracing::debug!("NCCL {} from {}", library.version(), library.file().display());
    *loaded = Some(library);
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_one_is_the_only_one_and_otherwise_the_set_up_s_comes_before_the_system_s() {
        let deps = Path::new("/d");
        let own: [OsString; 2] = ["/d/libtorch-cuda/lib/libnccl.so.2".into(), "libnccl.so.2".into()];
        assert_eq!(candidates(None, deps), own);
        assert_eq!(candidates(Some("".into()), deps), own, "an empty variable names nothing");
        assert_eq!(candidates(Some("/x/nccl.so".into()), deps), ["/x/nccl.so"]);
    }

    #[test]
    fn an_error_names_every_place_and_what_is_wrong_there() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.so");
        std::fs::write(&text, "not a library").unwrap();
        let places = [text.clone().into_os_string(), "/nowhere/libnccl.so.2".into(), "libm.so.6".into()];
        let told = first(&places).err().unwrap().to_string();
        for (place, why) in [
            (text.to_str().unwrap(), "file too short"),
            ("/nowhere/libnccl.so.2", "No such file"),
            ("libm.so.6", "ncclGetVersion"),
        ] {
            assert!(told.contains(place) && told.contains(why), "{place}, {why}: {told}");
        }
        assert!(told.contains("scripts/setup.sh --cuda") && told.contains(OVERRIDE), "{told}");
    }
}
