//! The calls of Kafka's protocol that are made here, each with its key and its answer.
//!
//! The protocol crate has such a trait too, but only with its broker half compiled in.

use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message};

/// A request and the type of its answer.
pub(super) trait Request: Message + Encodable + HeaderVersion + Send + Sync {
    const KEY: i16;
    const NAME: &'static str;
    type Response: Decodable + HeaderVersion + Send;
}

macro_rules! requests {
    ($($key:ident: $request:ident => $response:ident,)*) => {
        $(impl Request for m::$request {
            const KEY: i16 = m::ApiKey::$key as i16;
            const NAME: &'static str = stringify!($key);
            type Response = m::$response;
        })*
    };
}

requests! {
    ApiVersions: ApiVersionsRequest => ApiVersionsResponse,
    SaslHandshake: SaslHandshakeRequest => SaslHandshakeResponse,
    SaslAuthenticate: SaslAuthenticateRequest => SaslAuthenticateResponse,
    Metadata: MetadataRequest => MetadataResponse,
    InitProducerId: InitProducerIdRequest => InitProducerIdResponse,
    Produce: ProduceRequest => ProduceResponse,
    Fetch: FetchRequest => FetchResponse,
    ListOffsets: ListOffsetsRequest => ListOffsetsResponse,
    CreateTopics: CreateTopicsRequest => CreateTopicsResponse,
    CreatePartitions: CreatePartitionsRequest => CreatePartitionsResponse,
    DeleteTopics: DeleteTopicsRequest => DeleteTopicsResponse,
    DescribeConfigs: DescribeConfigsRequest => DescribeConfigsResponse,
    FindCoordinator: FindCoordinatorRequest => FindCoordinatorResponse,
    JoinGroup: JoinGroupRequest => JoinGroupResponse,
    SyncGroup: SyncGroupRequest => SyncGroupResponse,
    Heartbeat: HeartbeatRequest => HeartbeatResponse,
    LeaveGroup: LeaveGroupRequest => LeaveGroupResponse,
    OffsetCommit: OffsetCommitRequest => OffsetCommitResponse,
    OffsetFetch: OffsetFetchRequest => OffsetFetchResponse,
    OffsetDelete: OffsetDeleteRequest => OffsetDeleteResponse,
}
