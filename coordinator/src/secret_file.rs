//! Files that nobody else is to read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// More than any secret has, in bytes.
const MOST: u64 = 1 << 20;

/// The content of a file, of which the log says where others may read it.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    file.take(MOST).read_to_end(&mut bytes)?;
    if mode & 0o007 != 0 {
        let shown = path.display();
        tracing::warn!("every user of this machine may read the secret in {shown}: chmod 600 {shown}");
    }
    Ok(bytes)
}
