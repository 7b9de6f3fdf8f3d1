//! The routes of transforms and of raw events, for the list of all routes.

use super::routes::{Body, Class, Row};

const REPROCESS: Body = Body::Fields(
    "external_customer_id:string external_customer_ids:string[] event_name:string event_names:string[] \
     event_id:string event_ids:string[] start_date:string! end_date:string batch_size:integer \
     sample_percent:number parallelism:integer dry_run:boolean environment_id:string",
);
const RAW: Body = Body::Json("payloads, an array of them or {\"data\":[…]}");
const TRANSFORM: Body = Body::Fields("name:string spec:object toml:string environment_id:string");

/// Routes that have one address each.
pub(super) const ROWS: &[Row] = &[
    ("GET", "/api/transforms", Class::Query, Body::None, 200, "Transforms of raw events"),
    ("POST", "/api/transforms", Class::Admin, TRANSFORM, 201, "Make a transform"),
    (
        "POST",
        "/api/transforms/test",
        Class::Query,
        Body::Fields(
            "spec:object toml:string transform_id:string version:integer samples:object[]! environment_id:string",
        ),
        200,
        "Try a transform on samples",
    ),
    ("GET", "/api/transforms/{transform_id}", Class::Query, Body::None, 200, "One transform"),
    (
        "PUT",
        "/api/transforms/{transform_id}",
        Class::Admin,
        TRANSFORM,
        200,
        "Change it: make its next version",
    ),
    ("DELETE", "/api/transforms/{transform_id}", Class::Admin, Body::None, 200, "Delete it"),
    ("GET", "/api/transforms/{transform_id}/versions", Class::Query, Body::None, 200, "Its versions"),
];

/// Routes that stand below `/v1` and below `/api/v1`.
pub(super) const VERSIONED: &[Row] = &[
    ("POST", "/v1/events/raw/bulk", Class::Ingest, RAW, 202, "Send raw events: payloads to be transformed"),
    (
        "GET",
        "/v1/events/raw/list",
        Class::Query,
        Body::None,
        200,
        "Raw events with what became of each, in pages",
    ),
    ("POST", "/v1/events/raw/reprocess", Class::Admin, REPROCESS, 200, "Reprocess raw events"),
    (
        "GET",
        "/v1/events/raw/reprocess",
        Class::Admin,
        Body::None,
        200,
        "Reprocess jobs, newest first, in pages",
    ),
    ("POST", "/v1/events/raw/reprocess/all", Class::Admin, REPROCESS, 200, "Reprocess raw events"),
    (
        "POST",
        "/v1/events/raw/reprocess/pending",
        Class::Admin,
        REPROCESS,
        200,
        "Reprocess raw events whose events are not stored",
    ),
    ("GET", "/v1/events/raw/reprocess/{workflow_id}", Class::Admin, Body::None, 200, "One reprocess job"),
    ("POST", "/v1/events/raw/reprocess/{workflow_id}/cancel", Class::Admin, Body::None, 200, "Ask it to end"),
    (
        "POST",
        "/v1/events/raw/reprocess/{workflow_id}/resume",
        Class::Admin,
        Body::None,
        200,
        "Go on with one that failed or was cancelled",
    ),
];
