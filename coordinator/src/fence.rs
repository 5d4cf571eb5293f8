//! Terms on the wire: every answer to a member says the coordinator's, and a call that says a later one ends this coordinator. A
//! stranger does not learn whose run it is, and so cannot say that.

use crate::driver::Mailbox;
use crate::refusal::Refusal;
use crate::term::Term;
use octrain_proto::TERM_KEY;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::server::NamedService;

/// Calls that need no membership.
const STRANGERS: [&str; 3] = ["/Status", "/Exited", "/GiveUp"];

/// A service whose calls and answers carry terms.
#[derive(Clone)]
pub(crate) struct Fenced<S> {
    pub(crate) inner: S,
    pub(crate) term: Term,
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
        let ours = self.term;
        // Whoever has heard of no coordinator yet says nothing.
        let heard = request.headers().get(TERM_KEY).and_then(|v| v.to_str().ok());
        if let Some(heard) = heard.and_then(|text| text.parse::<Term>().ok()).filter(|t| ours.is_before(*t)) {
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
            Ok(if strange { answer } else { says(answer, ours) })
        })
    }
}

fn says(mut answer: http::Response<Body>, term: Term) -> http::Response<Body> {
    if let Ok(value) = AsciiMetadataValue::try_from(term.to_string()) {
        let mut said = MetadataMap::new();
        said.insert(TERM_KEY, value);
        answer.headers_mut().extend(said.into_headers());
    }
    answer
}
