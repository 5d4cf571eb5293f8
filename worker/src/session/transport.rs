//! The way to a coordinator: its address, and the one place where a channel to it is opened.

use super::error::{innermost, is_transient};
use super::fence::Fenced;
use super::secured::{Connector, Trouble};
use super::{Credentials, SessionError};
use octrain_coordinator::token::JobToken;
use octrain_proto::v1::coordinator_client::CoordinatorClient;
use octrain_proto::{BEARER, TOKEN_KEY};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

/// Calls to a coordinator.
pub(super) type Client = CoordinatorClient<InterceptedService<Fenced, Bearer>>;

/// The way to one coordinator.
#[derive(Clone)]
pub(super) struct Way {
    address: String,
    endpoint: Endpoint,
    connector: Connector,
    bearer: Bearer,
    trouble: Trouble,
}

/// Puts the job's token into every call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn of(token: Option<&JobToken>) -> Self {
        Self(token.map(|token| {
            let text = format!("{BEARER}{}", token.secret());
            let mut value =
                MetadataValue::try_from(text).expect("a token has visible ASCII characters alone");
            // So that it is in no log of what is sent, and in no table of what was sent before.
            value.set_sensitive(true);
            value
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(TOKEN_KEY, value.clone());
        }
        Ok(request)
    }
}

impl Way {
    /// The way to `HOST:PORT`. Nothing is connected yet.
    pub(super) fn to(coordinator: &str, credentials: &Credentials) -> Result<Self, SessionError> {
        let address = coordinator.trim_start_matches("http://").to_string();
        let bad = || SessionError::Address { address: address.clone() };
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        if host.is_empty() || port.parse::<u16>().map_or(true, |p| p == 0) {
            return Err(bad());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| bad())?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        let trouble = Trouble::default();
        let connector = Connector::new(host, credentials.tls.as_ref(), trouble.clone()).ok_or_else(bad)?;
        let bearer = Bearer::of(credentials.token.as_ref());
        Ok(Self { address, endpoint, connector, bearer, trouble })
    }

    /// `HOST:PORT`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Resolves the name and connects. The error is of the network.
    pub(super) async fn client(&self) -> Result<Client, String> {
        found(&self.address).await?;
        let connected = self.endpoint.connect_with_connector(self.connector.clone()).await;
        let channel = connected.map_err(|e| innermost(&e))?;
        Ok(CoordinatorClient::with_interceptor(Fenced::new(channel), self.bearer.clone()))
    }

    /// Whether the two sides can come together at all, as far as the last attempt tells.
    ///
    /// # Errors
    /// When trying again is in vain: a certificate that the other side does not take, or TLS on one side alone.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        match self.trouble.get() {
            Some(why) => Err(SessionError::Secured { address: self.address.clone(), why }),
            None => Ok(()),
        }
    }

    /// A call that has failed, as an error.
    pub(super) fn failed(&self, call: &'static str, status: &Status) -> SessionError {
        match self.check() {
            Err(e) if is_transient(status) => e,
            _ => SessionError::of_status(&self.address, call, status),
        }
    }

    /// Nobody was reached for so long.
    pub(super) fn unreachable(&self, waited: Duration, last: String) -> SessionError {
        let unreachable = SessionError::Unreachable { address: self.address.clone(), waited, last };
        self.check().err().unwrap_or(unreachable)
    }
}

/// Whether the name of an address resolves. Looked up only for the message: the channel looks up again whenever it
/// connects.
async fn found(address: &str) -> Result<(), String> {
    match tokio::net::lookup_host(address).await.map(|mut a| a.next().is_some()) {
        Ok(true) => Ok(()),
        Ok(false) => Err("its name resolves to no address".into()),
        Err(e) => Err(format!("its name does not resolve ({e})")),
    }
}
