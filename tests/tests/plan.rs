//! What is in the plan is obeyed: every field of it, with the place in the worker that reads it. A field that nobody
//! reads leaves the plan. That the places do what the fields say is for the tests of `trainer/setup.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the recipe is read off the wire, and where plans are shown.
const RECIPE: &str = "../../proto/src/recipe.rs";
const PLAN: &str = "../../coordinator/src/plan.rs";

/// Message and field of the protocol, file of `worker/src`, and the words there that read it.
const OBEYED: &[(&str, &str, &str, &str)] = &[
    ("BuildPlan", "protocol_version", "session/connect.rs", "plan.protocol_version != PROTOCOL_VERSION"),
    ("BuildPlan", "job_id", "session/connect.rs", "plan.job_id != registered.job_id"),
    ("BuildPlan", "world_size", "trainer/begin.rs", "world: u64::from(plan.world_size)"),
    ("BuildPlan", "min_world", "session/attach.rs", "self.plan.min_world < self.plan.world_size"),
    ("BuildPlan", "purpose", "session/connect.rs", "plan.purpose != options.job.purpose"),
    ("BuildPlan", "backend", "trainer/group.rs", "match plan.backend()"),
    ("BuildPlan", "device", "session/generation.rs", "match (plan.device(), p.cuda_device)"),
    ("BuildPlan", "amp", "trainer/setup.rs", "amp: plan.amp()"),
    ("BuildPlan", "loss_scaling", "trainer/setup.rs", "plan.loss_scaling.unwrap_or_default()"),
    ("BuildPlan", "layout", "trainer/setup.rs", "layout: plan.layout()"),
    ("BuildPlan", "passes", "trainer/setup.rs", "plan.passes.get(i)"),
    // For people: every decision with its reason. Its values are the other fields'.
    ("BuildPlan", "settings", "cli/plan.rs", "plan::render("),
    ("BuildPlan", "bucket_bytes", "trainer/group.rs", "plan.bucket_bytes as usize"),
    ("BuildPlan", "reduce_type", "trainer/group.rs", "reduce_type: plan.reduce_type()"),
    ("BuildPlan", "microbatches", "trainer/group.rs", "microbatches: plan.microbatches as usize"),
    ("BuildPlan", "microbatch_size", "trainer/group.rs", "plan.microbatch_size as usize"),
    ("BuildPlan", "total_steps", "trainer/setup.rs", "schedule(&config.optimizer, plan.total_steps"),
    ("BuildPlan", "qat", "trainer/setup.rs", "plan.qat.as_ref()"),
    ("BuildPlan", "determinism", "trainer/setup.rs", "plan.determinism"),
    ("BuildPlan", "threads", "trainer/setup.rs", "tch::set_num_threads(plan.threads"),
    ("BuildPlan", "config_sha256", "session/connect.rs", "plan.config_sha256 != options.job.config_sha256"),
    ("BuildPlan", "fp32_math", "trainer/setup.rs", "plan.fp32_math() == Fp32Math::Tf32"),
    ("BuildPlan", "sha256", "session/connect.rs", "plan::digest(plan).as_slice() != plan.sha256"),
    ("BuildPlan", "int8_forward", "trainer/setup.rs", ".int8_forward(plan.int8_forward)"),
    ("BuildPlan", "averaging", "trainer/setup.rs", "plan.averaging"),
    ("Averaging", "decay", "trainer/setup.rs", "decay: a.decay"),
    ("Averaging", "every", "trainer/setup.rs", "every: a.every"),
    ("Generation", "number", "session/connect.rs", "formed.number != registered.generation"),
    ("Generation", "roster", "trainer/task.rs", "generation.roster().iter()"),
    ("Generation", "rank", "trainer/group.rs", "generation.rank() as usize"),
    ("Generation", "source", "trainer/survive.rs", "generation.source()"),
    ("Generation", "plan_sha256", "session/generation.rs", "formed.plan_sha256 != plan.sha256"),
    ("Generation", "joined", "session/generation.rs", "self.formed.joined.iter()"),
    ("Placement", "rank", "session/generation.rs", "place.rank == rank"),
    ("Placement", "host", "session/generation.rs", "p.host != self.host"),
    ("Placement", "local_index", "session/generation.rs", "p.local_index != self.local_index"),
    // For people, and to give GPUs by; the coordinator's.
    ("Placement", "local_rank", "../../coordinator/src/ranks.rs", "before.local_rank + 1"),
    ("Placement", "cuda_device", "trainer/group.rs", "p.cuda_device"),
    ("Placement", "cuda_uuid", "session/generation.rs", "gpu.uuid == p.cuda_uuid"),
    ("LossScaling", "mode", "trainer/setup.rs", "match scaling.mode()"),
    ("LossScaling", "scale", "trainer/setup.rs", "scaling.scale"),
    ("PassDecision", "pass", "trainer/setup.rs", "(p.pass, p.on)"),
    ("PassDecision", "on", "trainer/setup.rs", "(p.pass, p.on)"),
    ("PassDecision", "reason", PLAN, "p.reason.clone()"),
    ("QatRecipe", "target", RECIPE, "recipe.target.try_into()"),
    ("QatRecipe", "calibration_images", RECIPE, "calibration_images: recipe.calibration_images"),
    ("QatRecipe", "freeze_observers_step", RECIPE, "at(recipe.freeze_observers_step)"),
    ("QatRecipe", "freeze_bn_step", RECIPE, "at(recipe.freeze_bn_step)"),
    ("QatRecipe", "observer_momentum", RECIPE, "observer_momentum: recipe.observer_momentum"),
    (
        "QatRecipe",
        "unclipped_straight_through",
        RECIPE,
        "unclipped_straight_through: recipe.unclipped_straight_through",
    ),
    ("QatRecipe", "skip", RECIPE, "recipe.skip.clone()"),
    ("QatRecipe", "observer", RECIPE, "recipe.observer.try_into()"),
    ("QatRecipe", "percentile", RECIPE, "percentile: recipe.percentile"),
    ("QatRecipe", "weight_bits", RECIPE, "weight_bits: recipe.weight_bits"),
    ("QatRecipe", "reduce_range", RECIPE, "reduce_range: recipe.reduce_range"),
    ("QatRecipe", "learn_scales", RECIPE, "learn_scales: recipe.learn_scales"),
    ("QatRecipe", "bn_images", RECIPE, "bn_images: recipe.bn_images"),
    ("QatRecipe", "distillation", RECIPE, ".distillation"),
    ("Distillation", "weight", RECIPE, "d.weight"),
    ("Distillation", "temperature", RECIPE, "d.temperature"),
    ("Determinism", "seed", "trainer/setup.rs", "d.seed"),
    ("Determinism", "deterministic_kernels", "trainer/setup.rs", "d.deterministic_kernels"),
];

/// Decisions that the worker takes out of its strategy, and where they are acted upon.
const ACTED_UPON: &[(&str, &str)] = &[
    ("optim/statistics.rs", "qat.calibration_images"),
    ("optim/statistics.rs", "qat.batch_norm_due("),
    ("../core/src/strategy/qat.rs", "self.bn_images"),
    ("../core/src/strategy/qat.rs", "self.freeze_bn.step("),
    ("optim/gradient_buffer.rs", "bucket_bytes"),
    ("optim/under_way.rs", "match bucket.reduce_type"),
    ("optim/program.rs", "unclipped_straight_through"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fields of a message, as the protocol file has them.
fn fields(proto: &str, message: &str) -> Vec<String> {
    let begin = format!("message {message} {{");
    let body = proto.lines().skip_while(|l| *l != begin).skip(1).take_while(|l| *l != "}");
    body.filter(|l| !l.trim_start().starts_with("//") && !l.trim_start().starts_with("reserved"))
        .filter_map(|l| Some(l.split_once(" = ")?.0.split_whitespace().last()?.to_string()))
        .collect()
}

/// A file of the worker without its tests and comments.
fn source(file: &str) -> String {
    let text =
        fs::read_to_string(root().join("worker/src").join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_field_of_the_plan_is_read_by_the_worker_at_a_place_that_is_named() {
    let proto = fs::read_to_string(root().join("proto/proto/coordinator.proto")).unwrap();
    let messages: BTreeSet<&str> = OBEYED.iter().map(|o| o.0).collect();
    for message in messages {
        let there: BTreeSet<String> = fields(&proto, message).into_iter().collect();
        let listed: BTreeSet<String> =
            OBEYED.iter().filter(|o| o.0 == message).map(|o| o.1.to_string()).collect();
        assert!(!there.is_empty(), "no message {message}");
        assert_eq!(there, listed, "fields of {message}: name the place where each is obeyed, or remove it");
    }
    for (message, field, file, words) in OBEYED {
        assert!(source(file).contains(words), "{message}.{field}: {file} has no `{words}`");
    }
    for (file, words) in ACTED_UPON {
        assert!(source(file).contains(words), "{file} has no `{words}`");
    }
}
