//! The build plan: made from strategy and ranks, hashed, shown.

use crate::ranks::{self, Place};
use crate::strategy::{self, JobFacts, StrategyError};
use octrain_core::passes::Decision;
use octrain_core::strategy::{Purpose, Rank};
use octrain_proto::v1::{BuildPlan, Generation, LossScaling, Placement};
use octrain_proto::{PROTOCOL_VERSION, v1};
use prost::Message;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What holds for the run, and the workers it begins with, in the order of their ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Hashed; the same in all generations.
    pub plan: BuildPlan,
    /// Of the first generation.
    pub roster: Vec<Placement>,
}

/// Decides, assigns ranks and puts everything that holds for the run into one hashed plan.
pub fn build(job_id: &str, facts: &JobFacts) -> Result<Planned, StrategyError> {
    let s = strategy::decide(facts)?;
    let places: Vec<Place> = facts.workers.iter().map(crate::place_of).collect();
    let mut roster = ranks::assign(&places);
    for (place, gpu) in roster.iter_mut().zip(s.gpus) {
        (place.cuda_device, place.cuda_uuid) = (Some(gpu.ordinal), gpu.uuid);
    }
    let mut plan = BuildPlan {
        protocol_version: PROTOCOL_VERSION,
        job_id: job_id.into(),
        world_size: facts.workers.len() as u32,
        min_world: s.min_world,
        purpose: s.purpose as i32,
        backend: s.backend.into(),
        device: s.device as i32,
        amp: s.strategy.amp as i32,
        loss_scaling: Some(s.loss_scaling),
        layout: s.strategy.layout as i32,
        passes: s.passes.into_iter().map(sent).collect(),
        settings: s.settings,
        bucket_bytes: s.bucket_bytes,
        reduce_type: s.reduce_type as i32,
        microbatches: s.microbatches,
        microbatch_size: s.microbatch_size,
        total_steps: s.total_steps,
        qat: s.strategy.qat.as_ref().map(|q| octrain_proto::recipe(q, s.total_steps)),
        determinism: Some(s.determinism),
        threads: s.threads,
        config_sha256: facts.job.config_sha256.clone(),
        fp32_math: s.fp32_math.into(),
        averaging: s.averaging,
        int8_forward: s.int8_forward,
        sha256: Vec::new(),
    };
    plan.sha256 = digest(&plan).to_vec();
    Ok(Planned { plan, roster })
}

/// A generation as rank 0 gets it; others get it with their `rank`.
pub fn generation(plan: &BuildPlan, number: u64, roster: Vec<Placement>, source: Option<u32>) -> Generation {
    Generation { number, roster, rank: 0, source, plan_sha256: plan.sha256.clone(), joined: Vec::new() }
}

/// A decision on a pass as it is sent.
fn sent(decision: Decision) -> v1::PassDecision {
    v1::PassDecision { pass: decision.pass as i32, on: decision.on, reason: decision.reason }
}

/// SHA-256 over the canonical encoding of everything but the hash itself.
/// Canonical is protobuf with fields in the order of their numbers and no maps, as prost writes it; peers of
/// another [`PROTOCOL_VERSION`] never get to compare.
pub fn digest(plan: &BuildPlan) -> [u8; 32] {
    Sha256::digest(BuildPlan { sha256: Vec::new(), ..plan.clone() }.encode_to_vec()).into()
}

/// The hash in hexadecimal.
pub fn hash_text(plan: &BuildPlan) -> String {
    crate::hex::hex(&plan.sha256)
}

/// The plan with reasons, for people: the ranks of a generation, passes, settings.
pub fn render(plan: &BuildPlan, generation: &Generation) -> String {
    let mut out = String::new();
    let hash = hash_text(plan);
    let _ = writeln!(
        out,
        "plan {} of job {}, generation {}, {} worker{}",
        &hash[..hash.len().min(12)],
        plan.job_id,
        generation.number,
        generation.roster.len(),
        if generation.roster.len() == 1 { "" } else { "s" }
    );
    let ranks = generation.roster.iter().map(|p| {
        let rank = Rank { rank: p.rank as usize, world: generation.roster.len() };
        let local = rank.local_microbatches(plan.microbatches as usize);
        let what = match plan.purpose() {
            Purpose::Train if local.len() == 1 => format!("microbatch {}", local.start),
            Purpose::Train => format!("microbatches {}..{}", local.start, local.end),
            _ => format!("images i with i % {} = {}", generation.roster.len(), p.rank),
        };
        let device = match p.cuda_device {
            None => "cpu".to_string(),
            Some(ordinal) => format!("cuda:{ordinal} ({})", p.cuda_uuid),
        };
        [p.rank.to_string(), format!("{} local {}", p.host, p.local_index), format!("{device}, {what}")]
    });
    table(&mut out, "ranks (by host, then local index)", ranks);
    let passes = plan
        .passes
        .iter()
        .map(|p| [p.pass().name().to_string(), if p.on { "on" } else { "off" }.into(), p.reason.clone()]);
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
    let on: Vec<&str> = plan.passes.iter().filter(|p| p.on).map(|p| p.pass().name()).collect();
    format!(
        "{} workers, {} on {}, {}, loss scale {}, {}, {} x {} images per step, passes {}",
        plan.world_size,
        strategy::backend_name(plan.backend()),
        plan.device(),
        plan.amp().precision(),
        strategy::scaling_text(&scaling),
        plan.layout(),
        plan.microbatches,
        plan.microbatch_size,
        on.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{facts, two};
    use serde_json::json;

    fn planned() -> Planned {
        build("job", &facts(json!({"qat": true, "amp": "bf16", "global-batch-size": 96}), two())).unwrap()
    }

    #[test]
    fn the_hash_covers_all_that_holds_for_the_run() {
        let Planned { plan, roster } = planned();
        assert_eq!(plan.sha256, digest(&plan));
        assert_eq!(generation(&plan, 3, roster, None).plan_sha256, plan.sha256);
        let changed: [fn(&mut BuildPlan); 10] = [
            |p| p.min_world -= 1,
            |p| p.world_size += 1,
            |p| p.job_id.push('x'),
            |p| p.passes[0].on = false,
            |p| p.passes.swap(0, 1),
            |p| p.settings[0].reason.push('!'),
            |p| p.microbatches += 1,
            |p| p.set_reduce_type(octrain_core::strategy::ReduceType::Bf16),
            |p| p.qat.as_mut().unwrap().observer_momentum = 0.91,
            |p| p.determinism.as_mut().unwrap().seed += 1,
        ];
        for (i, change) in changed.iter().enumerate() {
            let mut p = plan.clone();
            change(&mut p);
            assert_ne!(digest(&p), digest(&plan), "change {i} went unnoticed");
        }
    }

    #[test]
    fn the_encoding_survives_the_wire() {
        let plan = planned().plan;
        let back = BuildPlan::decode(&plan.encode_to_vec()[..]).unwrap();
        assert_eq!(back, plan);
        assert_eq!(digest(&back).as_slice(), plan.sha256);
    }

    #[test]
    fn the_text_shows_ranks_passes_and_settings_with_reasons() {
        let Planned { plan, roster } = planned();
        let text = render(&plan, &generation(&plan, 3, roster, None));
        for line in [
            "of job job, generation 3, 2 workers",
            "  0  a local 0  cpu, microbatch 0",
            "  1  a local 1  cpu, microbatches 1..3",
            "  fold-batch-norm       off  trained unfolded; export folds exactly",
            "--bucket-mib 25",
        ] {
            assert!(text.contains(line), "{line} in:\n{text}");
        }
        for name in
            plan.passes.iter().map(|p| p.pass().name()).chain(plan.settings.iter().map(|s| s.name.as_str()))
        {
            assert!(text.contains(name), "{name}");
        }
        assert!(summary(&plan).contains("gloo on cpu, bf16"), "{}", summary(&plan));
    }
}
