//! Calls by name and bytes, with a token or without: what a stranger sends. Each test binary uses a part of it.
#![allow(dead_code)]

use octrain_proto::v1::*;
use octrain_proto::{BEARER, PROTOCOL_VERSION, TOKEN_KEY};
use prost::Message;
use prost::bytes::{Buf, BufMut};
use std::net::SocketAddr;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The protocol's file, which says what calls there are.
const PROTOCOL: &str = include_str!("../../../proto/proto/coordinator.proto");

/// Names of all calls of the service.
pub fn names() -> Vec<&'static str> {
    let lines = PROTOCOL.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
    lines.map(|line| line.split('(').next().unwrap()).collect()
}

/// A whole message of each call, from a worker that nobody knows.
pub fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let header =
        || Some(Header { job_id: "octrain".into(), generation: 1, member: "0-0123456789abcdef".into() });
    let text = || "gone".to_string();
    let key = || "key".to_string();
    let all = vec![
        ("Register", super::worker::request("stranger", 1).encode_to_vec()),
        ("GiveUp", give_up().encode_to_vec()),
        ("GetPlan", GetPlanRequest { header: header(), wait_ms: 5 }.encode_to_vec()),
        (
            "Attach",
            AttachRequest {
                header: header(),
                standing: Some(Standing::default()),
                message: text(),
                wait_ms: 5,
            }
            .encode_to_vec(),
        ),
        (
            "Heartbeat",
            HeartbeatRequest {
                header: header(),
                step: 7,
                collectives: 9,
                connected: true,
                leaving: true,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        ("Watch", WatchRequest { header: header() }.encode_to_vec()),
        (
            "ReportStep",
            ReportStepRequest {
                header: header(),
                report: Some(StepReport { loss: 0.5, ..StepReport::default() }),
            }
            .encode_to_vec(),
        ),
        (
            "ReportFailure",
            ReportFailureRequest { header: header(), message: text(), kind: FailureKind::Own.into() }
                .encode_to_vec(),
        ),
        ("Leave", LeaveRequest { header: header(), interrupted: true, before_plan: true }.encode_to_vec()),
        (
            "Exited",
            ExitedRequest {
                job_id: "octrain".into(),
                host: "a".into(),
                pid: 1000,
                status: text(),
                token: "guessed".into(),
                ..ExitedRequest::default()
            }
            .encode_to_vec(),
        ),
        ("Resize", ResizeRequest { workers: 2 }.encode_to_vec()),
        ("StoreSet", StoreSetRequest { header: header(), key: key(), value: vec![1; 64] }.encode_to_vec()),
        ("StoreGet", StoreGetRequest { header: header(), key: key(), wait_ms: 5 }.encode_to_vec()),
        ("StoreAdd", StoreAddRequest { header: header(), key: key(), amount: -3 }.encode_to_vec()),
        ("StoreCheck", StoreCheckRequest { header: header(), keys: vec![key(); 3] }.encode_to_vec()),
        ("StoreDelete", StoreDeleteRequest { header: header(), key: key() }.encode_to_vec()),
        ("Status", StatusRequest { watching: true }.encode_to_vec()),
    ];
    let (here, there): (Vec<_>, Vec<_>) = (all.iter().map(|(name, _)| *name).collect(), names());
    assert_eq!(here, there, "every call of the protocol has a message here, in its order");
    all
}

fn give_up() -> GiveUpRequest {
    GiveUpRequest {
        job_id: "octrain".into(),
        host: "stranger".into(),
        local_index: Some(1),
        workers: 1,
        pid: 4242,
        message: "cannot be run".into(),
        ..GiveUpRequest::default()
    }
}

/// A connection.
#[derive(Clone)]
pub struct Raw(Grpc<Channel>);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Raw {
        Raw::try_connect(address).await.unwrap()
    }

    pub async fn try_connect(address: SocketAddr) -> Result<Raw, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Ok(Raw(Grpc::new(endpoint.connect().await?)))
    }

    /// Sends these bytes as the message of a call, and returns the first one of the answer, if any.
    pub async fn call(
        &mut self,
        name: &str,
        message: Vec<u8>,
        token: Option<&str>,
    ) -> Result<Vec<u8>, Status> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            let value = format!("{BEARER}{token}").parse().unwrap();
            request.metadata_mut().insert(TOKEN_KEY, value);
        }
        self.send(name, request).await
    }

    /// The same of a whole request.
    pub async fn send(&mut self, name: &str, request: Request<Vec<u8>>) -> Result<Vec<u8>, Status> {
        let path: PathAndQuery = format!("/octrain.v1.Coordinator/{name}").parse().unwrap();
        self.0.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let mut answer = self.0.server_streaming(request, path, Bytes).await?.into_inner();
        // A stream without end is let go of.
        match name {
            "Watch" => Ok(Vec::new()),
            _ => Ok(answer.message().await?.unwrap_or_default()),
        }
    }

    /// A call of a worker that has the token.
    pub async fn typed<T: Message + Default>(
        &mut self,
        name: &str,
        message: &impl Message,
        token: &str,
    ) -> Result<T, Status> {
        let answer = self.call(name, message.encode_to_vec(), Some(token)).await?;
        Ok(T::decode(answer.as_slice()).unwrap())
    }

    /// A call that is answered, of a coordinator that asks for no token.
    pub async fn untold<T: Message + Default>(&mut self, name: &str, message: &impl Message) -> T {
        loop {
            match self.call(name, message.encode_to_vec(), None).await {
                Ok(answer) => return T::decode(answer.as_slice()).unwrap(),
                // It has more to do than it takes in; sessions ask again.
                Err(e) if e.code() == Code::ResourceExhausted => tokio::time::sleep(PAUSE).await,
                Err(e) => panic!("{name} is refused: {e}"),
            }
        }
    }
}

/// The only worker of a job, which speaks with its token.
pub struct Member {
    pub raw: Raw,
    pub header: Header,
    token: String,
}

impl Member {
    pub async fn join(address: SocketAddr, token: &str) -> Member {
        let mut request = super::worker::request("a", 0);
        request.worker.as_mut().unwrap().local_world = 1;
        assert_eq!(request.protocol_version, PROTOCOL_VERSION);
        let mut raw = Raw::connect(address).await;
        let r: RegisterReply = raw.typed("Register", &request, token).await.unwrap();
        let header = Header { job_id: r.job_id, generation: r.generation, member: r.member };
        let mut member = Member { raw, header, token: token.into() };
        let ask = GetPlanRequest { header: member.header(), wait_ms: 5000 };
        let plan: GetPlanReply = member.call("GetPlan", &ask).await;
        assert!(plan.plan.is_some(), "the job has begun");
        member
    }

    pub fn header(&self) -> Option<Header> {
        Some(self.header.clone())
    }

    pub async fn call<T: Message + Default>(&mut self, name: &str, message: &impl Message) -> T {
        let answer = self.raw.typed(name, message, &self.token).await;
        answer.unwrap_or_else(|e| panic!("{name} of the job's own worker is refused: {e}"))
    }

    /// Shows that it is alive, and that its job goes on.
    pub async fn beat(&mut self, step: u64) {
        let beat = HeartbeatRequest {
            header: self.header(),
            step,
            collectives: step,
            connected: true,
            ..HeartbeatRequest::default()
        };
        let heard: HeartbeatReply = self.call("Heartbeat", &beat).await;
        assert_eq!((heard.abort, heard.regroup, heard.boundary_wanted), (None, None, false));
    }

    pub async fn leave(mut self) {
        let leave = LeaveRequest { header: self.header(), interrupted: false, before_plan: false };
        let _: LeaveReply = self.call("Leave", &leave).await;
    }
}

/// Messages as they are.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
