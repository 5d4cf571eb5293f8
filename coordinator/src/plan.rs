//! The build plan: made from strategy and ranks, hashed, shown.

use crate::ranks::{self, Place};
use crate::strategy::{self, JobFacts, StrategyError};
use octrain_proto::v1::{BuildPlan, Device, LossScaling, MemoryLayout};
use octrain_proto::{PROTOCOL_VERSION, v1};
use prost::Message;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Decides, assigns ranks and puts everything into one hashed plan; the rank-dependent fields are those of
/// rank 0 (see [`for_rank`]).
pub fn build(job_id: &str, generation: u64, facts: &JobFacts) -> Result<BuildPlan, StrategyError> {
    let s = strategy::decide(facts)?;
    let places: Vec<Place> = facts.workers.iter().map(crate::place_of).collect();
    let mut plan = BuildPlan {
        protocol_version: PROTOCOL_VERSION,
        job_id: job_id.into(),
        generation,
        world_size: facts.workers.len() as u32,
        purpose: s.purpose.into(),
        roster: ranks::assign(&places),
        rank: 0,
        local_rank: 0,
        host: String::new(),
        backend: s.backend.into(),
        device: s.device.into(),
        precision: s.precision.into(),
        loss_scaling: Some(s.loss_scaling),
        memory_layout: s.memory_layout.into(),
        passes: s.passes,
        settings: s.settings,
        bucket_bytes: s.bucket_bytes,
        communication_dtype: s.communication_dtype.into(),
        overlap: s.overlap,
        microbatches: s.microbatches,
        microbatch_size: s.microbatch_size,
        total_steps: s.total_steps,
        qat: s.qat,
        determinism: Some(s.determinism),
        threads: s.threads,
        config_sha256: facts.job.config_sha256.clone(),
        sha256: Vec::new(),
    };
    plan.sha256 = digest(&plan).to_vec();
    Ok(for_rank(&plan, 0))
}

/// The plan as rank `rank` gets it; the hash stays. `rank` must be in the roster.
pub fn for_rank(plan: &BuildPlan, rank: u32) -> BuildPlan {
    let mine = &plan.roster[rank as usize];
    BuildPlan { rank, local_rank: mine.local_rank, host: mine.host.clone(), ..plan.clone() }
}

/// SHA-256 over the canonical encoding of everything but the rank-dependent fields and the hash itself.
/// Canonical is protobuf with fields in the order of their numbers and no maps, as prost writes it; peers of
/// another [`PROTOCOL_VERSION`] never get to compare.
pub fn digest(plan: &BuildPlan) -> [u8; 32] {
    let shared =
        BuildPlan { rank: 0, local_rank: 0, host: String::new(), sha256: Vec::new(), ..plan.clone() };
    Sha256::digest(shared.encode_to_vec()).into()
}

/// The hash in hexadecimal.
pub fn hash_text(plan: &BuildPlan) -> String {
    hex(&plan.sha256)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The plan with reasons, for people: ranks, passes, settings.
pub fn render(plan: &BuildPlan) -> String {
    let mut out = String::new();
    let hash = hash_text(plan);
    let _ = writeln!(
        out,
        "plan {} of job {}, generation {}, {} worker{}",
        &hash[..hash.len().min(12)],
        plan.job_id,
        plan.generation,
        plan.world_size,
        if plan.world_size == 1 { "" } else { "s" }
    );
    let ranks = plan.roster.iter().map(|p| {
        let share = strategy::share(p.rank.into(), plan.world_size.into(), plan.microbatches);
        let what = match plan.purpose() {
            v1::Purpose::Train if share.end == share.start + 1 => format!("microbatch {}", share.start),
            v1::Purpose::Train => format!("microbatches {}..{}", share.start, share.end),
            _ => format!("images i with i % {} = {}", plan.world_size, p.rank),
        };
        let device = match plan.device() {
            Device::Cpu => "cpu".to_string(),
            Device::Cuda => format!("cuda:{}", p.local_rank),
        };
        [p.rank.to_string(), format!("{} local {}", p.host, p.local_index), format!("{device}, {what}")]
    });
    table(&mut out, "ranks (by host, then local index)", ranks);
    let passes = plan
        .passes
        .iter()
        .map(|p| [p.name.clone(), if p.on { "on" } else { "off" }.into(), p.reason.clone()]);
    table(&mut out, "passes, in order", passes);
    let settings = plan.settings.iter().map(|s| [s.name.clone(), s.value.clone(), s.reason.clone()]);
    table(&mut out, "settings", settings);
    out
}

fn table(out: &mut String, title: &str, rows: impl Iterator<Item = [String; 3]>) {
    let rows: Vec<_> = rows.collect();
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let (a, b) = (width(0), width(1));
    let _ = writeln!(out, "\n{title}");
    for [x, y, z] in &rows {
        let _ = writeln!(out, "  {x:a$}  {y:b$}  {z}");
    }
}

/// One line on the essentials, for logs.
pub fn summary(plan: &BuildPlan) -> String {
    let scaling = plan.loss_scaling.unwrap_or(LossScaling { mode: 0, scale: 1.0 });
    let on: Vec<&str> = plan.passes.iter().filter(|p| p.on).map(|p| p.name.as_str()).collect();
    format!(
        "{} workers, {} on {}, {}, loss scale {}, {}, {} x {} images per step, passes {}",
        plan.world_size,
        strategy::backend_name(plan.backend()),
        strategy::device_name(plan.device()),
        strategy::precision_name(plan.precision()),
        strategy::scaling_text(&scaling),
        if plan.memory_layout() == MemoryLayout::Nhwc { "NHWC" } else { "NCHW" },
        plan.microbatches,
        plan.microbatch_size,
        on.join(", ")
    )
}
