//! Terms on the wire, as a worker sees them: every call says the latest that it has heard of, and an answer of an earlier
//! coordinator counts for nothing.

use octrain_coordinator::term::Term;
use octrain_proto::TERM_KEY;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Error};

/// A channel whose calls and answers carry terms; clones know of the same ones.
#[derive(Clone)]
pub(super) struct Fenced {
    channel: Channel,
    heard: Arc<Mutex<Option<Term>>>,
}

impl Fenced {
    /// A channel that has heard of no coordinator yet.
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, heard: Arc::default() }
    }

    /// The answer, unless it is one of an earlier coordinator than was heard before.
    fn admit(heard: &Mutex<Option<Term>>, answer: http::Response<Body>) -> http::Response<Body> {
        let said = answer.headers().get(TERM_KEY).and_then(|v| v.to_str().ok());
        let Some(said) = said.and_then(|text| text.parse::<Term>().ok()) else { return answer };
        let mut known = heard.lock().unwrap_or_else(PoisonError::into_inner);
        match Term::hear(*known, said) {
            Ok(term) => {
                *known = Some(term);
                answer
            }
            // As if nobody had answered: the later one is to.
            Err(later) => Status::unavailable(format!(
                "it was answered by an earlier coordinator (term {}; one of term {} was heard)",
                said.number, later.number
            ))
            .into_http(),
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Error>> + Send>>;

impl Service<http::Request<Body>> for Fenced {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answering {
        let known = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.and_then(|term| AsciiMetadataValue::try_from(term.to_string()).ok()) {
            let mut said = MetadataMap::new();
            said.insert(TERM_KEY, value);
            request.headers_mut().extend(said.into_headers());
        }
        let (heard, answering) = (Arc::clone(&self.heard), self.channel.call(request));
        Box::pin(async move { answering.await.map(|answer| Self::admit(&heard, answer)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_coordinator_that_was_replaced_is_none() {
        let heard = Mutex::new(None);
        let answer = |text: &str| {
            let built = http::Response::builder().header(TERM_KEY, text).body(Body::empty()).unwrap();
            Status::from_header_map(Fenced::admit(&heard, built).headers())
        };
        // One that says nothing, or what nobody can read, is of no term.
        for text in ["", "no term", "1.1", "1.3", "2.1", "1.3"] {
            assert!(answer(text).is_none(), "{text}");
        }
        let old = answer("1.2").unwrap();
        assert_eq!(old.code(), tonic::Code::Unavailable);
        assert!(super::super::error::is_transient(&old), "{old:?}");
        assert!(old.message().contains("term 2") && old.message().contains("term 3"), "{}", old.message());
        assert!(answer("1.4").is_none());
        assert_eq!(heard.lock().unwrap().map(|t| t.number), Some(4));
    }
}
