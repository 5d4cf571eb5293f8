//! Refusals as gRPC statuses: the only place that knows both.

use crate::refusal::Refusal;
use crate::text::{MAX_STATUS, line};
use octrain_proto::REFUSAL_KEY;
use octrain_proto::v1::AbortKind;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let code = match &refusal {
            Refusal::Protocol { .. }
            | Refusal::Job { .. }
            | Refusal::Stale { .. }
            | Refusal::Resize(_)
            | Refusal::NotRunning => Code::FailedPrecondition,
            Refusal::Unknown { .. } | Refusal::Left { .. } => Code::NotFound,
            Refusal::Duplicate { .. } => Code::AlreadyExists,
            Refusal::Full { .. } | Refusal::Busy => Code::ResourceExhausted,
            Refusal::Unexpected { .. }
            | Refusal::Mismatch { .. }
            | Refusal::Configuration(_)
            | Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::Store(_) => Code::OutOfRange,
            Refusal::Ended(_) | Refusal::Finished => Code::Aborted,
            Refusal::Gone | Refusal::Retired(_) => Code::Unavailable,
            Refusal::TokenMissing | Refusal::TokenOther | Refusal::TokenUnwanted => Code::Unauthenticated,
        };
        let text = line(&refusal.to_string(), MAX_STATUS);
        // In a job that outlives its workers, how it ended for this one says more than the text: who saves.
        let mut status = match &refusal {
            Refusal::Ended(abort) if abort.saver.is_some() || abort.kind() == AbortKind::Dropped => {
                Status::with_details(code, text, abort.encode_to_vec().into())
            }
            _ => Status::new(code, text),
        };
        status.metadata_mut().insert(REFUSAL_KEY, MetadataValue::from_static(refusal.kind()));
        status
    }
}
