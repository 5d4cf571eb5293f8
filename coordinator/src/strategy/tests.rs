//! Every decision, table by table.

use super::testing::{facts, model, two, worker};
use super::*;
use octrain_core::passes::Pass;
use octrain_core::strategy::{Amp, Freeze, Qat, Target};
use serde_json::{Value, json};

fn of(s: &BuildStrategy, name: &str) -> (String, String) {
    let s = s.settings.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no setting {name}"));
    (s.value.clone(), s.reason.clone())
}

#[test]
fn passes_are_those_that_follow_from_the_flags() {
    let mut f = facts(json!({"qat": true, "amp": "bf16", "qat-skip": ["fc"]}), two());
    for &purpose in Purpose::ALL {
        f.job.purpose = purpose as i32;
        let s = decide(&f).unwrap();
        let qat = s.strategy.qat.as_ref().unwrap();
        assert_eq!((s.strategy.amp, &qat.skip[..]), (Amp::Bf16, &["fc".to_string()][..]));
        assert_eq!(s.passes, passes::decide(&s.strategy, &network(model()), purpose));
        assert!(s.passes.iter().any(|d| d.on && d.pass == Pass::QuantizeWeights));
    }
    assert!(
        decide(&facts(json!({"data-layout": "NCHW"}), two()))
            .unwrap()
            .passes
            .iter()
            .all(|d| { d.on == (d.pass == Pass::DropDead) })
    );
}

#[test]
fn device_and_backend() {
    let w = worker;
    use Backend::{Gloo, Local, Nccl};
    let good: [(&str, Vec<WorkerFacts>, Device, Backend); 7] = [
        ("auto", vec![w("a", 0, 0)], Device::Cpu, Local),
        ("auto", two(), Device::Cpu, Gloo),
        ("auto", vec![w("a", 0, 2), w("a", 1, 2)], Device::Cuda, Nccl),
        ("auto", vec![w("a", 0, 1)], Device::Cuda, Local),
        ("cpu", vec![w("a", 0, 2), w("a", 1, 2)], Device::Cpu, Gloo),
        ("cuda", vec![w("a", 0, 1), w("b", 0, 1)], Device::Cuda, Nccl),
        // Indices need not begin at 0; devices are counted by rank within the host.
        ("cuda", vec![w("a", 4, 2), w("a", 6, 2)], Device::Cuda, Nccl),
    ];
    for (flag, workers, device, backend) in good {
        let s = decide(&facts(json!({"device": flag}), workers.clone())).unwrap();
        assert_eq!((s.device, s.backend), (device, backend), "{flag} {workers:?}");
    }
    let asked = |backend: &str, device: &str, workers| {
        decide(&facts(json!({"test-backend": backend, "device": device}), workers)).map(|s| s.backend)
    };
    assert_eq!(asked("gloo", "cpu", vec![w("a", 0, 0)]), Ok(Gloo), "a group of one, for a test");
    assert_eq!(asked("nccl", "auto", vec![w("a", 0, 1)]), Ok(Nccl));
    assert_eq!(asked("nccl", "cpu", two()), Ok(Nccl), "over a stand-in");
    assert_eq!(asked("auto", "auto", vec![w("a", 0, 1)]), Ok(Local));
    assert_eq!(asked("gloo", "cuda", vec![w("a", 0, 1)]), Err(StrategyError::GlooOnGpus));
    let error =
        |flag: &str, workers| decide(&facts(json!({"device": flag}), workers)).unwrap_err().to_string();
    let e = error("cuda", vec![w("pod-10", 0, 1), w("pod-2", 2, 2), w("pod-2", 1, 2), w("pod-2", 0, 2)]);
    assert!(e.contains("host pod-2 local 2 is worker 3 of its host and sees 2 CUDA devices"), "{e}");
    let e = error("auto", vec![w("a", 0, 1), w("b", 0, 0)]);
    assert!(e.contains("host a local 0 can use") && e.contains("host b local 0 cannot"), "{e}");
    let e = error("auto", vec![w("a", 0, 2), w("a", 1, 2), w("a", 2, 2)]);
    assert!(e.contains("host a local 2 cannot"), "{e}");
}

/// A worker that sees these GPUs of its host, in this order.
fn sees(host: &str, local_index: u32, gpus: &[usize]) -> WorkerFacts {
    let mut w = worker(host, local_index, 8);
    let all = std::mem::take(&mut w.capabilities.as_mut().unwrap().cuda_devices);
    w.capabilities.as_mut().unwrap().cuda_devices = gpus.iter().map(|&i| all[i].clone()).collect();
    w
}

#[test]
fn every_worker_gets_a_gpu_of_its_own_however_they_are_shown() {
    let gpus = |workers: Vec<WorkerFacts>| -> Vec<(u32, String)> {
        let s = decide(&facts(json!({"device": "cuda"}), workers)).unwrap();
        s.gpus.into_iter().map(|g| (g.ordinal, g.uuid)).collect()
    };
    type Case<'a> = (Vec<WorkerFacts>, &'a [(u32, &'a str)]);
    let cases: [Case; 5] = [
        // All are shown to all: by rank within the host.
        (vec![sees("a", 0, &[0, 1]), sees("a", 1, &[0, 1])], &[(0, "GPU-a-0"), (1, "GPU-a-1")]),
        // One is shown to each (`--gpus-per-task=1`): it is device 0 of each.
        (vec![sees("a", 0, &[0]), sees("a", 1, &[1])], &[(0, "GPU-a-0"), (0, "GPU-a-1")]),
        (vec![sees("a", 0, &[3]), sees("a", 1, &[2])], &[(0, "GPU-a-3"), (0, "GPU-a-2")]),
        // Another host's GPU is another one.
        (vec![sees("a", 0, &[0]), sees("b", 0, &[0])], &[(0, "GPU-a-0"), (0, "GPU-b-0")]),
        // Each its own numbering.
        (vec![sees("a", 0, &[4, 5]), sees("a", 1, &[5, 6])], &[(0, "GPU-a-4"), (1, "GPU-a-6")]),
    ];
    for (workers, want) in cases {
        let got = gpus(workers.clone());
        let got: Vec<(u32, &str)> = got.iter().map(|(i, uuid)| (*i, uuid.as_str())).collect();
        assert_eq!(got, want, "{workers:?}");
    }
    for device in ["auto", "cuda"] {
        for shared in
            [vec![sees("a", 0, &[0]), sees("a", 1, &[0])], vec![sees("a", 0, &[1, 0]), sees("a", 1, &[0, 1])]]
        {
            let e = decide(&facts(json!({"device": device}), shared)).unwrap_err().to_string();
            let parts = ["host a local 0 and host a local 1", "GPU-a-", "--gpus-per-task=1", "--device cpu"];
            assert!(parts.iter().all(|part| e.contains(part)), "{e}");
        }
        // A test may have workers share what there is.
        for (host, want) in [
            (vec![sees("a", 0, &[4]), sees("a", 1, &[4])], [0, 0, 0]),
            (vec![sees("a", 0, &[4, 5]), sees("a", 1, &[4, 5]), sees("a", 2, &[4, 5])], [0, 1, 0]),
        ] {
            let shared = decide(&facts(json!({"device": device, "test-backend": "nccl"}), host)).unwrap();
            let got: Vec<u32> = shared.gpus.iter().map(|gpu| gpu.ordinal).collect();
            assert_eq!(got, want[..got.len()]);
        }
    }
    let crate::plan::Planned { plan, roster } = crate::plan::build(
        "job",
        &facts(json!({"device": "cuda"}), vec![sees("a", 1, &[7]), sees("a", 0, &[3])]),
    )
    .unwrap();
    let gpus: Vec<_> = roster.iter().map(|p| (p.cuda_device, p.cuda_uuid.as_str())).collect();
    assert_eq!(gpus, [(Some(0), "GPU-a-3"), (Some(0), "GPU-a-7")]);
    assert!(
        crate::plan::render(&plan, &crate::plan::generation(&plan, 1, roster, None))
            .contains("cuda:0 (GPU-a-7), microbatch 1")
    );
}

#[test]
fn fp32_on_gpus_is_one_setting_with_its_reason() {
    let mut old = worker("b", 0, 1);
    let d = &mut old.capabilities.as_mut().unwrap().cuda_devices[0];
    (d.name, d.major, d.minor) = ("T4".into(), 7, 5);
    for (changes, workers, math, reason) in [
        (json!({}), vec![worker("a", 0, 1)], Fp32Math::Tf32, "reference"),
        (json!({"amp": "bf16"}), vec![worker("a", 0, 1)], Fp32Math::Tf32, "left in FP32"),
        (json!({"qat": true}), vec![worker("a", 0, 1)], Fp32Math::Ieee, "--qat"),
        (json!({}), vec![worker("a", 0, 1), old], Fp32Math::Ieee, "T4 (7.5) has no TF32"),
        (json!({}), two(), Fp32Math::Ieee, "CPUs"),
        (json!({"device": "cpu"}), vec![worker("a", 0, 1)], Fp32Math::Ieee, "CPUs"),
    ] {
        let facts = facts(changes.clone(), workers);
        let s = decide(&facts).unwrap();
        assert_eq!(s.fp32_math, math, "{changes}");
        assert!(of(&s, "fp32-math").1.contains(reason), "{:?}", of(&s, "fp32-math"));
        assert_eq!(crate::plan::build("job", &facts).unwrap().plan.fp32_math(), math);
    }
}

#[test]
fn precision_meets_the_hardware_or_says_what_to_change() {
    let mut old = worker("b", 0, 1);
    let d = &mut old.capabilities.as_mut().unwrap().cuda_devices[0];
    (d.name, d.major, d.minor) = ("T4".into(), 7, 5);
    let f = |amp: &str| facts(json!({"amp": amp}), vec![worker("a", 0, 1), old.clone()]);
    let e = decide(&f("bf16")).unwrap_err().to_string();
    assert!(e.contains("T4 of host b local 0 has compute capability 7.5"), "{e}");
    assert_eq!(decide(&f("fp16")).unwrap().strategy.amp, Amp::Fp16);

    let mut plain = worker("b", 0, 0);
    plain.capabilities.as_mut().unwrap().cpu_bf16 = false;
    let s = decide(&facts(json!({"amp": "bf16"}), vec![worker("a", 0, 0), plain])).unwrap();
    assert_eq!(s.strategy.amp, Amp::Bf16);
    assert!(of(&s, "precision").1.contains("BF16 for the CPU of b"), "{:?}", of(&s, "precision"));
    let s = decide(&facts(json!({"amp": "fp16"}), two())).unwrap();
    assert!(of(&s, "precision").1.contains("no faster than FP32"));
}

#[test]
fn loss_scaling_is_what_was_asked_for() {
    use octrain_proto::v1::LossScalingMode as M;
    let cases = [
        (json!({}), M::Off, 1.0, "do not underflow"),
        (json!({"amp": "bf16"}), M::Off, 1.0, "range of FP32"),
        (json!({"amp": "fp16"}), M::Off, 1.0, "may underflow"),
        (json!({"amp": "fp16", "scale-loss": 128.0}), M::Static, 128.0, "--scale-loss 128"),
        (
            json!({"amp": "fp16", "scale-loss": 128.0, "use-dynamic-loss-scaling": true}),
            M::Dynamic,
            128.0,
            "from --scale-loss 128",
        ),
        (json!({"amp": "bf16", "use-dynamic-loss-scaling": true}), M::Dynamic, 1.0, "needless"),
    ];
    for (changes, mode, scale, reason) in cases {
        let s = decide(&facts(changes.clone(), two())).unwrap();
        assert_eq!((s.loss_scaling.mode(), s.loss_scaling.scale), (mode, scale), "{changes}");
        assert!(of(&s, "loss-scale").1.contains(reason), "{changes}: {:?}", of(&s, "loss-scale"));
    }
}

#[test]
fn batches() {
    // (global, batch, workers) -> (M, per rank)
    for (global, batch, world, m, per_rank) in [
        (None, 32, 2, 2, "1"),
        (Some(128), 32, 2, 4, "2"),
        (Some(128), 32, 4, 4, "1"),
        (Some(96), 32, 2, 3, "1 or 2"),
        (Some(32), 32, 1, 1, "1"),
    ] {
        let workers = (0..world).map(|i| worker("a", i, 0)).collect();
        let s = decide(&facts(json!({"global-batch-size": global, "batch-size": batch}), workers)).unwrap();
        assert_eq!((s.microbatches, s.microbatch_size), (m, batch));
        assert_eq!(of(&s, "microbatches-per-rank").0, per_rank);
    }
    let error = |changes: Value| decide(&facts(changes, two())).unwrap_err();
    let e = error(json!({"global-batch-size": 100})).to_string();
    assert!(["100", "32", "2 workers", "--global-batch-size 96"].iter().all(|n| e.contains(n)), "{e}");
    let e = error(json!({"global-batch-size": 32})).to_string();
    assert!(
        e.contains("fewer than the 2 workers") && e.contains("at most 16") && e.contains("at least 64"),
        "{e}"
    );
    assert_eq!(error(json!({"batch-size": 0})), StrategyError::EmptyBatch);
    assert_eq!(
        error(json!({"global-batch-size": 51_200})),
        StrategyError::NoStep {
            global: 51_200,
            images: 50_000,
            fits: "--global-batch-size 49984 fits".into()
        }
    );
    assert!(matches!(error(json!({"global-batch-size": 0})), StrategyError::TooFewMicrobatches { .. }));
    // Who runs no epoch wants no step.
    let few = decide(&facts(json!({"global-batch-size": 51_200, "epochs": 0}), two())).unwrap();
    assert_eq!((few.total_steps, few.microbatch_size), (0, 32));
}

#[test]
fn a_run_that_goes_on_keeps_its_global_batch_unless_it_is_told_otherwise() {
    let with = |changes: Value, kept: u64| {
        let mut f = facts(changes, two());
        f.job.kept_global_batch = kept;
        decide(&f)
    };
    let s = with(json!({}), 128).unwrap();
    assert_eq!(s.microbatches, 4);
    assert!(of(&s, "microbatches").1.contains("128 images of a step so far"), "{:?}", of(&s, "microbatches"));
    assert_eq!(with(json!({"global-batch-size": 64}), 128).unwrap().microbatches, 2);
    // It fits no whole number of microbatches, or not one for each worker.
    for (kept, fits) in [(32, 16), (80, 20)] {
        let e = with(json!({}), kept).unwrap_err().to_string();
        let (image, fits) = (format!("{kept} images in a step"), format!("--batch-size {fits} keeps it"));
        for want in [&image[..], &fits, "--global-batch-size ", "fewer workers"] {
            assert!(e.contains(want), "{want} in {e}");
        }
    }
    // A number from nowhere costs no time.
    with(json!({"batch-size": u64::MAX >> 12}), 1).unwrap_err();
}

#[test]
fn steps_are_whole_global_batches_of_all_epochs() {
    for (changes, steps) in [
        (json!({}), 781 * 8),
        (json!({"max-steps": 100}), 100),
        (json!({"max-steps": 100_000}), 781 * 8),
        (json!({"epochs": 0}), 0),
    ] {
        assert_eq!(decide(&facts(changes.clone(), two())).unwrap().total_steps, steps, "{changes}");
    }
    let mut f = facts(json!({"qat": true}), two());
    f.job.train_images = 0;
    let s = decide(&f).unwrap();
    assert_eq!((s.total_steps, of(&s, "steps").0.as_str()), (0, "unknown"));
    assert_eq!(of(&s, "observers-freeze-step").0, "at 0.8 of the steps");
}

fn qat(s: &BuildStrategy) -> Qat {
    s.strategy.qat.clone().expect("a recipe")
}

#[test]
fn the_qat_recipe() {
    let s = decide(&facts(json!({"max-steps": 100, "qat": true, "target": "tensorrt"}), two())).unwrap();
    let q = qat(&s);
    assert_eq!((q.target, q.calibration_images), (Target::Tensorrt, 512));
    assert_eq!(of(&s, "calibration-images").0, "512");
    assert_eq!((q.freeze_observers, q.freeze_bn), (Freeze::Step(80), Freeze::Step(90)));
    assert_eq!(of(&s, "quant-target").0, "tensorrt");
    let s = decide(&facts(json!({"qat": true, "qat-freeze-observers": 1.0}), two())).unwrap();
    assert_eq!(qat(&s).freeze_observers, Freeze::Never);
    assert_eq!(of(&s, "observers-freeze-step").0, "never");
    assert_eq!(decide(&facts(json!({}), two())).unwrap().strategy.qat, None);
}

#[test]
fn ranges_that_calibration_or_gradients_own_are_not_observed() {
    for changes in [
        json!({"qat": true, "qat-observer": "percentile"}),
        json!({"qat": true, "qat-observer": "mse"}),
        json!({"qat": true, "qat-observer": "entropy"}),
        json!({"qat": true, "qat-learn-scales": true}),
    ] {
        let s = decide(&facts(changes.clone(), two())).unwrap();
        assert_eq!(qat(&s).freeze_observers, Freeze::Step(0), "{changes}");
        assert!(of(&s, "observers-freeze-step").1.contains("calibration"), "{changes}");
    }
    let s = decide(&facts(json!({"qat": true, "qat-observer": "max", "max-steps": 10}), two())).unwrap();
    assert_eq!(qat(&s).freeze_observers, Freeze::Step(8));
}

#[test]
fn the_recipe_carries_weight_bits_and_distillation() {
    let s = decide(&facts(json!({"qat": true, "qat-weight-bits": 7, "qat-distill": true}), two())).unwrap();
    let q = qat(&s);
    assert_eq!(q.weight_bits, 7);
    assert!(of(&s, "quant-weights").0.starts_with("int7"));
    let d = q.distillation.unwrap();
    assert_eq!((d.weight, d.temperature), (0.5, 4.0));
    assert_eq!(qat(&decide(&facts(json!({"qat": true}), two())).unwrap()).distillation, None);
}

#[test]
fn the_plan_says_which_codes_activations_behind_a_relu_have_and_for_whom() {
    let said = |changes| of(&decide(&facts(changes, two())).unwrap(), "quant-unsigned-codes");
    for (changes, codes, why) in [
        (json!({"qat": true}), "0 to 255", "for CPUs with VNNI"),
        (json!({"qat": true, "qat-weight-bits": 7}), "0 to 255", "7-bit weights suit CPUs without VNNI"),
        (json!({"qat": true, "qat-reduce-range": true}), "0 to 127", "--qat-reduce-range"),
        (json!({"qat": true, "target": "tensorrt"}), "0 to 127", "--target tensorrt has signed codes alone"),
    ] {
        let (value, reason) = said(changes);
        assert!(value.starts_with(codes) && reason.contains(why), "{value}: {reason}");
    }
    let reduced = decide(&facts(json!({"qat": true, "qat-reduce-range": true}), two())).unwrap();
    assert!(qat(&reduced).reduce_range);
}

#[test]
fn the_plan_says_which_type_gradients_have_on_their_way() {
    for (changes, workers, value, why) in [
        (json!({}), two(), "fp32", "--reduce-dtype fp32"),
        (json!({"reduce-dtype": "bf16"}), two(), "bf16", "half the bytes, rounded at each sum"),
        (json!({"reduce-dtype": "bf16"}), vec![worker("a", 0, 0)], "fp32", "one worker"),
    ] {
        let decided = decide(&facts(changes, workers)).unwrap();
        let (said, reason) = of(&decided, "reduce-dtype");
        assert!(said == value && reason.contains(why), "{said}: {reason}");
        assert_eq!(decided.reduce_type.name(), value);
    }
}

#[test]
fn a_forward_on_codes_is_for_cpus_that_sum_them_exactly_and_never_left_off_unsaid() {
    let asked = |mut changes: serde_json::Value| {
        for key in ["qat", "qat-int8-forward"] {
            changes[key] = true.into();
        }
        changes
    };
    let decided = decide(&facts(json!({"qat": true}), two())).unwrap();
    assert_eq!((decided.int8_forward, of(&decided, "int8-forward").0), (false, "off".to_string()));
    for changes in [json!({}), json!({"amp": "bf16"})] {
        let decided = decide(&facts(asked(changes), two())).unwrap();
        let (said, reason) = of(&decided, "int8-forward");
        assert!(decided.int8_forward && said == "on" && reason.contains("--qat-int8-forward"), "{reason}");
    }
    let mut plain = two();
    plain[1].capabilities.as_mut().unwrap().cpu_int8 = false;
    let mut narrow = two();
    narrow[1].capabilities.as_mut().unwrap().cpu_bf16 = false;
    assert!(decide(&facts(asked(json!({})), narrow.clone())).unwrap().int8_forward);
    for (changes, workers, why) in [
        (json!({}), plain, "has no VNNI"),
        (json!({"amp": "bf16"}), narrow, "say --amp off"),
        (json!({"data-layout": "NCHW"}), two(), "say --data-layout NHWC"),
        (json!({"amp": "fp16"}), two(), "say --amp bf16"),
        (json!({"device": "cuda"}), vec![worker("a", 0, 1)], "say --device cpu"),
    ] {
        let error = decide(&facts(asked(changes), workers)).unwrap_err().to_string();
        assert!(error.starts_with("--qat-int8-forward is set, but") && error.contains(why), "{error}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_the_name_of_their_flag() {
    for (changes, flag) in [
        (json!({"scale-loss": 0.0}), "scale-loss"),
        (json!({"bucket-mib": 0.0}), "bucket-mib"),
        (json!({"bucket-mib": 1e9}), "bucket-mib"),
        (json!({"qat": true, "qat-freeze-observers": 1.5}), "qat-freeze-observers"),
        (json!({"qat": true, "qat-freeze-bn": -0.1}), "qat-freeze-bn"),
        (json!({"qat": true, "qat-observer-momentum": 1.0}), "qat-observer-momentum"),
        (json!({"qat": true, "qat-percentile": 40.0}), "qat-percentile"),
        (json!({"qat": true, "qat-weight-bits": 4}), "qat-weight-bits"),
        (json!({"qat": true, "qat-distill": true, "qat-distill-weight": 0.0}), "qat-distill-weight"),
        (
            json!({"qat": true, "qat-distill": true, "qat-distill-temperature": 0.5}),
            "qat-distill-temperature",
        ),
    ] {
        let e = decide(&facts(changes.clone(), two())).unwrap_err();
        assert!(matches!(e, StrategyError::Range { .. } | StrategyError::Qat(_)), "{changes}: {e}");
        assert!(e.to_string().starts_with(&format!("--{flag} is ")), "{changes}: {e}");
    }
    let mut f = facts(json!({"qat": true}), two());
    f.job.model = Some(ModelFacts { layers: 0, ..model() });
    assert!(matches!(decide(&f), Err(StrategyError::NothingToQuantize { .. })));
    assert_eq!(decide(&facts(json!({}), vec![])), Err(StrategyError::NoWorkers));
    let mut f = facts(json!({}), two());
    f.job.config_json = "{\"batch-size\": 1}".into();
    assert!(matches!(decide(&f), Err(StrategyError::Config(text)) if text.contains("missing field")));
}

#[test]
fn threads_are_those_of_the_most_crowded_host() {
    let mut small = worker("b", 0, 0);
    small.capabilities.as_mut().unwrap().cpu_cores = 2;
    for (changes, workers, threads) in [
        (json!({}), two(), 4),
        (json!({}), vec![worker("a", 0, 0), small], 2),
        (json!({"threads": 3}), two(), 3),
        (json!({}), (0..16).map(|i| worker("a", i, 0)).collect(), 1),
    ] {
        assert_eq!(decide(&facts(changes, workers)).unwrap().threads, threads);
    }
}

#[test]
fn every_setting_has_a_value_and_a_reason_and_appears_once() {
    let s = decide(&facts(json!({"qat": true, "amp": "bf16", "device": "auto"}), two())).unwrap();
    let mut names: Vec<&str> = s.settings.iter().map(|s| s.name.as_str()).collect();
    assert!(s.settings.iter().all(|s| !s.value.is_empty() && !s.reason.is_empty()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_order_of_arrival_changes_nothing() {
    let workers =
        vec![worker("pod-10", 1, 0), worker("pod-2", 0, 0), worker("pod-10", 0, 0), worker("pod-2", 1, 0)];
    let mut other = workers.clone();
    other.reverse();
    let a = crate::plan::build("job", &facts(json!({}), workers)).unwrap();
    let b = crate::plan::build("job", &facts(json!({}), other)).unwrap();
    assert_eq!(a, b);
}
