//! Terms on the wire, where a journal is kept: answers to members say the coordinator's, and a call that says a later one of the same
//! run ends this coordinator. Only who was admitted is told of the run, which nobody guesses: an answer says it where the call
//! succeeded, and a refusal only to one that said it itself, so that what it knows to be later counts. A stranger learns
//! nothing, and ends nothing.

use crate::driver::Mailbox;
use crate::refusal::Refusal;
use crate::term::Term;
use octrain_proto::TERM_KEY;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// Calls that need no membership.
const STRANGERS: [&str; 3] = ["/Status", "/Exited", "/GiveUp"];

/// A service whose calls and answers carry terms.
#[derive(Clone)]
pub(crate) struct Fenced<S> {
    pub(crate) inner: S,
    /// None where no other coordinator could ever go on with the job: then terms are neither told nor obeyed.
    pub(crate) term: Option<Term>,
    pub(crate) mailbox: Mailbox,
}

impl<S: NamedService> NamedService for Fenced<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for Fenced<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let Some(ours) = self.term else { return Box::pin(self.inner.call(request)) };
        // Whoever has heard of no coordinator yet says nothing.
        let said = request.headers().get(TERM_KEY).and_then(|v| v.to_str().ok());
        let said = said.and_then(|text| text.parse::<Term>().ok()).filter(|said| said.run == ours.run);
        if let Some(heard) = said.filter(|heard| ours.is_before(*heard)) {
            let why = format!(
                "a worker has heard of a later coordinator of this job (term {}; this one is of term {})",
                heard.number, ours.number
            );
            self.mailbox.superseded(why.clone());
            let refused = Status::from(Refusal::Retired(why)).into_http();
            return Box::pin(std::future::ready(Ok(says(refused, ours))));
        }
        let strange = STRANGERS.iter().any(|call| request.uri().path().ends_with(call));
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            let admitted = !strange && (said.is_some() || !is_refusal(&answer));
            Ok(if admitted { says(answer, ours) } else { answer })
        })
    }
}

/// Whether the answer says in its head, as refusals do, that the call has failed.
fn is_refusal(answer: &http::Response<Body>) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|status| status.code() != Code::Ok)
}

fn says(mut answer: http::Response<Body>, term: Term) -> http::Response<Body> {
    if let Ok(value) = AsciiMetadataValue::try_from(term.to_string()) {
        let mut said = MetadataMap::new();
        said.insert(TERM_KEY, value);
        answer.headers_mut().extend(said.into_headers());
    }
    answer
}
