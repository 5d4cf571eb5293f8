//! What one pass saves. Not a test:
//! `cargo test -p octrain --release --lib native::tests::cost -- --ignored --nocapture`.

use super::*;
use std::time::Instant;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn one_pass_against_two() {
    for device in devices() {
        for kind in KINDS {
            let x =
                Tensor::randn([16, 56, 56, 64], (Kind::Float, device)).to_kind(kind).permute([0, 3, 1, 2]);
            let x = x.set_requires_grad(true);
            let scale = scale_on(device, 0.02);
            // Reads a number of the result, so that a GPU has finished.
            let done = |y: &Tensor| y.flatten(0, -1).get(0).to_kind(Kind::Double).double_value(&[]);
            let one = || done(&observe_fake_quant(&x, &scale, -127, 127, false).unwrap().0);
            let two = || {
                let seen = abs_max(&x).unwrap();
                done(&seen) + done(&fake_quant(&x, &scale, -127, 127, false).unwrap())
            };
            // What five library operators cost: observe, quantize, dequantize, mask.
            let library = || {
                let wide = x.detach().to_kind(Kind::Float);
                let most = wide.abs().max();
                let q = (&wide / &scale).round();
                let mask = q.ge(-127).logical_and(&q.le(127));
                done(&most) + done(&(q.clamp(-127, 127) * &scale).to_kind(kind)) + done(&mask)
            };
            let runs: [&dyn Fn() -> f64; 3] = [&one, &two, &library];
            let mut times = [vec![], vec![], vec![]];
            for _ in 0..41 {
                for (run, times) in runs.iter().zip(&mut times) {
                    let start = Instant::now();
                    std::hint::black_box(run());
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
            let [one, two, library] = times.map(median);
            println!(
                "{kind:?} on {device:?}: one pass {one:.2} ms, two {two:.2} ms ({:.2}x), library operators \
                 {library:.2} ms ({:.2}x)",
                two / one,
                library / one
            );
        }
    }
}
