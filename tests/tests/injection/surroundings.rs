//! What is done to what a job needs besides its processes: the disk it saves to, the network between its hosts.

use super::draw::Draw;
use super::faults::{Phase, Seen, Wholes, reach, recovery, run_in, whole_job};
use super::judge;
use super::network::{Cut, Network, address};
use super::stage::{Setup, Stage};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Bytes of the disk that a job saves to: room for three checkpoints.
const DISK: &str = "size=8m";

/// A disk of its own; it goes when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at).output();
        let mounted = mounted.map_err(|e| format!("mount: {e}"))?;
        match mounted.status.success() {
            true => Ok(Self(at.into())),
            false => Err(String::from_utf8_lossy(&mounted.stderr).trim().into()),
        }
    }

    /// Leaves no room on it.
    fn fill(&self) -> Result<PathBuf, String> {
        let (path, zeros) = (self.0.join("filler"), vec![0; 16 << 20]);
        match std::fs::write(&path, zeros) {
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => Ok(path),
            Err(e) => Err(format!("{}: {e}", path.display())),
            Ok(()) => Err("the disk is not full".into()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// Why there can be no disk of its own here; none where there can.
pub fn no_disk() -> Option<String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    Disk::new(&dir.path().join("disk")).err().map(|e| format!("a full disk: it needs root ({e})"))
}

/// The disk is full from some moment on: the job ends to be tried again, what was saved is whole, and once there is room it
/// goes on from there.
pub fn disk_full(draw: &mut Draw, wholes: &Wholes) -> Seen {
    let whole = wholes.of(false);
    let setup = Setup::usual();
    let mut stage = Stage::new(setup);
    let disk = match Disk::new(&stage.output) {
        Ok(disk) => disk,
        Err(e) => return Seen { figures: Vec::new(), outcome: Err(e) },
    };
    let begun = stage.coordinate().and_then(|_| stage.launch());
    run_in(begun.map(|()| stage), |stage, _| {
        let phase = draw.one_of(&[Phase::Connect, Phase::Step, Phase::Save]);
        reach(stage, phase, draw, whole)?;
        let filler = disk.fill()?;
        let codes = stage.end()?;
        judge::ended(&codes, &[3, 3])?;
        if !stage.told().contains("no space left on device") {
            return Err("nothing is said of the disk".into());
        }
        judge::gone(stage)?;
        std::fs::remove_file(filler).map_err(|e| e.to_string())?;
        // Nothing was saved where it was full before the first checkpoint.
        let has = std::fs::read_dir(&stage.output).into_iter().flatten().flatten();
        let saved = has.filter(|e| !e.file_name().to_string_lossy().starts_with('.') && e.path().is_dir());
        let from = if saved.count() == 0 { 0 } else { judge::loadable(&stage.output)? };
        stage.again()?;
        let codes = stage.end()?;
        judge::ended(&codes, &[0, 0])?;
        judge::saved(stage)?;
        match stage.first_step()? == from + 1 {
            true => judge::equal(stage, whole),
            false => Err(format!("it goes on after step {from} with {}", stage.first_step()?)),
        }
    })
}

/// The link of one of two hosts is cut, in one direction or in both, and mended some seconds later.
pub fn link(draw: &mut Draw, wholes: &Wholes) -> Seen {
    let whole = wholes.long();
    let network = match Network::new(&format!("oc{}", std::process::id())) {
        Ok(network) => network,
        Err(e) => return Seen { figures: Vec::new(), outcome: Err(e) },
    };
    let setup = Setup { launchers: 2, nproc: 2, steps: super::stage::LONG, ..Setup::usual() };
    let mut stage = Stage::new(setup).placed(format!("{}:29400", address(0)), network.places());
    let begun = stage.coordinate().and_then(|_| stage.launch());
    run_in(begun.map(|()| stage), |stage, seen| {
        let cut = draw.one_of(&[Cut::Both, Cut::From, Cut::To]);
        reach(stage, Phase::Step, draw, whole)?;
        let victims = stage.workers()[2..].to_vec();
        let at = Instant::now();
        network.cut(cut)?;
        stage.first_since(at, "workers go on after step")?;
        std::thread::sleep(draw.seconds(0.5, 3.0));
        network.mend(cut)?;
        let codes = stage.end()?;
        seen.figures = recovery(stage, at, "detected");
        // Those who were cut off hear that the job goes on without them.
        judge::ended(&codes, &[0, 3, 0]).map_err(|e| format!("{cut:?}: {e}"))?;
        judge::blamed(stage, &victims).map_err(|e| format!("{cut:?}: {e}"))?;
        whole_job(stage, whole, &victims).map_err(|e| format!("{cut:?}: {e}"))
    })
}
