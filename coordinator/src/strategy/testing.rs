//! Facts for tests.

use super::JobFacts;
use crate::spec::spec;
use octrain_core::strategy::Purpose;
use octrain_proto::v1::{Capabilities, CudaDevice, ModelFacts, WorkerFacts};
use serde_json::{Value, json};

pub(crate) fn config(changes: Value) -> Value {
    let mut config = json!({
        "batch-size": 32, "global-batch-size": null, "epochs": 8, "max-steps": 0, "benchmark": false, "seed": 42,
        "amp": "off", "scale-loss": 1.0, "use-dynamic-loss-scaling": false, "data-layout": "NHWC",
        "qat": false, "target": "openvino", "qat-calibration-images": 512, "qat-freeze-observers": 0.8,
        "qat-freeze-bn": 0.9, "qat-observer-momentum": 0.9, "qat-pass-through": false, "qat-skip": [],
        "qat-observer": "moving-average", "qat-percentile": 99.99, "qat-weight-bits": 8, "qat-reduce-range": false,
        "qat-learn-scales": false, "qat-int8-forward": false, "qat-bn-images": 0, "qat-distill": false, "qat-distill-weight": 0.5, "qat-distill-temperature": 4.0,
        "model-ema": false, "model-ema-decay": 0.99998, "model-ema-steps": 32,
        "device": "auto", "threads": 0, "bucket-mib": 25.0, "reduce-dtype": "fp32", "another-key": "ignored",
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

pub(crate) fn model() -> ModelFacts {
    ModelFacts { name: "ResNet20".into(), parameters: 272_474, layers: 22, batch_norms: 21 }
}

pub(crate) fn worker(host: &str, local_index: u32, gpus: usize) -> WorkerFacts {
    let gpu = |i: usize| CudaDevice {
        name: "H200".into(),
        major: 9,
        minor: 0,
        memory_bytes: 1 << 37,
        uuid: format!("GPU-{host}-{i}"),
    };
    WorkerFacts {
        host: host.into(),
        local_index,
        local_world: 0,
        pid: 1,
        capabilities: Some(Capabilities {
            cuda_devices: (0..gpus).map(gpu).collect(),
            cpu_bf16: true,
            cpu_avx512: true,
            cpu_int8: true,
            cpu_cores: 8,
            memory_bytes: 1 << 34,
        }),
    }
}

pub(crate) fn facts(changes: Value, workers: Vec<WorkerFacts>) -> JobFacts {
    let min_world = workers.len() as u32;
    JobFacts { job: spec(&config(changes), Purpose::Train, model(), 50_000), workers, min_world }
}

pub(crate) fn two() -> Vec<WorkerFacts> {
    vec![worker("a", 0, 0), worker("a", 1, 0)]
}
