//! Whether the weights are averaged, and how fast the average forgets.

use super::batch::Batch;
use super::{JobSettings, setting};
use octrain_core::strategy::{Averaging, Purpose};
use octrain_proto::v1::{self, Setting};

/// The average that is kept, and what is said of it.
pub(super) fn decide(s: &JobSettings, purpose: Purpose, batch: &Batch) -> (Option<v1::Averaging>, Setting) {
    if !s.model_ema || purpose != Purpose::Train {
        let why = if s.model_ema { "nothing is trained" } else { "--model-ema is not set" };
        return (None, setting("model-ema", "off", why));
    }
    let (told, every, epochs) = (s.model_ema_decay, s.model_ema_steps, s.epochs);
    let global = batch.microbatches * batch.microbatch_size;
    let decay = Averaging::adjusted_decay(told, every, global, epochs);
    let value = format!("{decay:.6} every {every} steps");
    let why = format!(
        "--model-ema-decay {told} for {epochs} epochs of steps of {global} images; the average is what is evaluated, saved and exported"
    );
    (Some(v1::Averaging { decay, every }), setting("model-ema", value, why))
}
