//! Octrain's protocol: generated types, and the recipe's way onto the wire and back.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use octrain_proto::v1::{StatusRequest, coordinator_client::CoordinatorClient};
//! let mut client = CoordinatorClient::connect("http://127.0.0.1:29400").await?;
//! println!("{:?}", client.status(StatusRequest::default()).await?.into_inner().phase());
//! # Ok(()) }
//! ```

mod recipe;

pub use recipe::{qat, recipe};

/// Version of the protocol between coordinator and workers. Grows with every change that an older peer would
/// misunderstand; peers of different versions refuse each other.
pub const PROTOCOL_VERSION: u32 = 13;

/// Metadata key of a refused call: the kind of the refusal, in kebab case.
pub const REFUSAL_KEY: &str = "octrain-refusal";

/// Metadata key of a call: the job's token, behind [`BEARER`].
pub const TOKEN_KEY: &str = "authorization";
/// What stands in front of the job's token ([`TOKEN_KEY`]).
pub const BEARER: &str = "Bearer ";
/// Metadata key of calls and answers: the term of the coordinator, or the last one that the caller has heard of, as the coordinator
/// writes it.
pub const TERM_KEY: &str = "octrain-term";
/// How a worker's word on a generation ends that its ranks have left between two steps, in good order
/// ([`v1::AttachRequest`]'s message).
pub const PARTED: &str = "for a worker that joins or leaves";

/// The coordinator's service and its messages (`proto/coordinator.proto`).
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("octrain.v1");
}
