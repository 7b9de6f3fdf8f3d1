//! Every route there is: who may ask it, what it takes and answers. The integration tests hold this list against the
//! sources and against a running process, and try every route with every credential.

use std::borrow::Cow;

use super::raw_routes;
use crate::web::SCREENS;

/// Who may ask a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Anybody.
    Anyone,
    /// A key with scope `ingest`, an editor, an owner.
    Ingest,
    /// A key with scope `query`, any member.
    Query,
    /// A key with scope `admin`, an owner.
    Admin,
    /// Any good credential, whatever it names.
    Credential,
    /// A member of the project in the path; a key of it with scope `admin`.
    Member,
    /// An owner of the project in the path; a key of it with scope `admin`.
    Manager,
    /// Who has scope `admin` somewhere, or is logged in.
    Lists,
    /// An administrator, or the operator.
    Operator,
    /// A person who is logged in.
    Person,
    /// Anybody: a part of the page, and none of the API.
    Page,
}

impl Class {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anybody",
            Self::Ingest => "scope ingest; editor, owner",
            Self::Query => "scope query; any member",
            Self::Admin => "scope admin; owner",
            Self::Credential => "any good credential",
            Self::Member => "scope admin in this project; any of its members",
            Self::Manager => "scope admin in this project; its owners",
            Self::Lists => "scope admin; any person",
            Self::Operator => "administrators",
            Self::Person => "a person who is logged in",
            Self::Page => "anybody",
        }
    }
}

/// What a route takes as its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    None,
    /// These fields and no others, as `name:type`, with `!` behind those that are required.
    Fields(&'static str),
    /// A JSON body that is described elsewhere.
    Json(&'static str),
}

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    pub method: &'static str,
    pub path: Cow<'static, str>,
    pub class: Class,
    pub body: Body,
    /// The status of an answer that is no error.
    pub status: u16,
    pub summary: &'static str,
}

pub(super) type Row = (&'static str, &'static str, Class, Body, u16, &'static str);

const NAME: Body = Body::Fields("name:string!");
const EVENTS: Body = Body::Json("one event, an array of them, or {\"batch\":[…]}");
const QUESTION: Body = Body::Json("the question; its fields are in the answer to a wrong one");
const KEPT: Body = Body::Json("name and definition; its fields are in the answer to a wrong one");
const RULE: Body = Body::Fields(
    "name:string! sources:string[]! target:string! join:object! look_back:string! model:string! dimension:string \
     value:string environment_id:string",
);
const FILTERS: Body = Body::Json("filters: those of questions, all of which hold for who counts");
const NEXT_VERSION: Body = Body::Fields("definition:object! upcast:object");
const TRIED_VERSION: Body = Body::Fields("definition:object! upcast:object samples:object[]");
const METERING: Body = Body::Json("as FlexPrice's SDKs send it");

/// Routes of surfaces that have one address each.
const ROWS: &[Row] = &[
    ("GET", "/health", Class::Anyone, Body::None, 200, "Is the process up?"),
    (
        "GET",
        "/ready",
        Class::Anyone,
        Body::None,
        200,
        "Can its roles do their work? 503 if not; ?role= asks for one",
    ),
    ("GET", "/metrics", Class::Anyone, Body::None, 200, "Metrics, in Prometheus' text format"),
    ("GET", "/version", Class::Anyone, Body::None, 200, "Name and version"),
    ("GET", "/api/openapi.json", Class::Anyone, Body::None, 200, "This document"),
    ("GET", "/api/docs", Class::Anyone, Body::None, 200, "This document as a page"),
    ("GET", "/api/docs.css", Class::Anyone, Body::None, 200, "How that page looks"),
    ("POST", "/capture", Class::Ingest, EVENTS, 202, "Send events; 202 once they are durable in the log"),
    ("POST", "/capture/batch", Class::Ingest, EVENTS, 202, "The same"),
    ("POST", "/api/demo", Class::Admin, Body::Fields("events:integer!"), 202, "A demo shop's week"),
    ("GET", "/api/query/events", Class::Query, Body::None, 200, "Events, newest first, in pages"),
    (
        "GET",
        "/api/query/events/live",
        Class::Query,
        Body::None,
        200,
        "Events as they arrive: server-sent events",
    ),
    ("GET", "/api/query/events/{event_id}/trace", Class::Query, Body::None, 200, "Where one event is"),
    ("GET", "/api/query/names", Class::Query, Body::None, 200, "Names of events and of properties"),
    ("GET", "/api/query/values", Class::Query, Body::None, 200, "Values of a property"),
    ("POST", "/api/query/trends", Class::Query, QUESTION, 200, "How often, over time"),
    ("POST", "/api/query/trends/people", Class::Query, QUESTION, 200, "Who stands behind a number of it"),
    ("POST", "/api/query/sql", Class::Query, QUESTION, 200, "SQL over the caller's own events"),
    ("POST", "/api/query/funnel", Class::Query, QUESTION, 200, "How many get how far"),
    (
        "POST",
        "/api/query/funnel/people",
        Class::Query,
        QUESTION,
        200,
        "Who stands behind a number of a funnel",
    ),
    ("POST", "/api/query/retention", Class::Query, QUESTION, 200, "Who comes back, and when"),
    ("POST", "/api/query/retention/people", Class::Query, QUESTION, 200, "Who stands behind a number of it"),
    (
        "POST",
        "/api/query/lifecycle",
        Class::Query,
        QUESTION,
        200,
        "Who is new, returns, rests or comes back to life",
    ),
    ("POST", "/api/query/lifecycle/people", Class::Query, QUESTION, 200, "Who stands behind a number of it"),
    ("POST", "/api/query/stickiness", Class::Query, QUESTION, 200, "On how many days of a period"),
    ("POST", "/api/query/stickiness/people", Class::Query, QUESTION, 200, "Who stands behind a number of it"),
    ("POST", "/api/query/paths", Class::Query, QUESTION, 200, "What comes after what"),
    ("POST", "/api/query/paths/people", Class::Query, QUESTION, 200, "Who stands behind a number of it"),
    ("POST", "/api/query/attribution", Class::Query, QUESTION, 200, "What a rule of attribution credited"),
    ("GET", "/api/attribution/rules", Class::Query, Body::None, 200, "Rules of attribution"),
    ("POST", "/api/attribution/rules", Class::Admin, RULE, 201, "Make a rule; its past is computed by a job"),
    ("GET", "/api/attribution/rules/{rule_id}", Class::Query, Body::None, 200, "One rule"),
    ("PATCH", "/api/attribution/rules/{rule_id}", Class::Admin, RULE, 200, "Change it: another version"),
    ("DELETE", "/api/attribution/rules/{rule_id}", Class::Admin, Body::None, 204, "Delete it"),
    ("GET", "/api/attribution/rules/{rule_id}/versions", Class::Query, Body::None, 200, "Its versions"),
    (
        "GET",
        "/api/attribution/rules/{rule_id}/conversions",
        Class::Query,
        Body::None,
        200,
        "Its conversions, newest first, in pages",
    ),
    (
        "POST",
        "/api/attribution/rules/{rule_id}/recompute",
        Class::Admin,
        Body::Fields("from:string! to:string environment_id:string"),
        202,
        "Compute it anew for a range, as a job",
    ),
    ("GET", "/api/cohorts", Class::Query, Body::None, 200, "Cohorts"),
    ("POST", "/api/cohorts", Class::Query, KEPT, 201, "Make a cohort"),
    ("GET", "/api/cohorts/{id}", Class::Query, Body::None, 200, "One cohort"),
    ("PATCH", "/api/cohorts/{id}", Class::Query, KEPT, 200, "Change it"),
    ("DELETE", "/api/cohorts/{id}", Class::Query, Body::None, 204, "Delete it"),
    ("GET", "/api/test-accounts", Class::Query, Body::None, 200, "Whom questions leave out when told to"),
    ("PUT", "/api/test-accounts", Class::Admin, FILTERS, 200, "Set the filters of test accounts"),
    ("GET", "/api/dashboards", Class::Query, Body::None, 200, "Dashboards"),
    ("POST", "/api/dashboards", Class::Query, KEPT, 201, "Make a dashboard"),
    ("GET", "/api/dashboards/{id}", Class::Query, Body::None, 200, "One dashboard"),
    ("PATCH", "/api/dashboards/{id}", Class::Query, KEPT, 200, "Change it"),
    ("DELETE", "/api/dashboards/{id}", Class::Query, Body::None, 204, "Delete it"),
    ("POST", "/api/dashboards/{id}/refresh", Class::Query, Body::None, 200, "Ask its questions anew"),
    ("GET", "/api/persons", Class::Query, Body::None, 200, "People and their properties, in pages"),
    ("GET", "/api/persons/{person_id}", Class::Query, Body::None, 200, "One person"),
    ("GET", "/api/groups", Class::Query, Body::None, 200, "Groups and their properties, in pages"),
    ("GET", "/api/groups/{group_type}/{group_key}", Class::Query, Body::None, 200, "One group"),
    (
        "POST",
        "/api/persons/merge",
        Class::Ingest,
        Body::Fields("distinct_ids:string[]! environment_id:string"),
        200,
        "Make distinct ids one person",
    ),
    (
        "POST",
        "/api/persons/{person_id}/split",
        Class::Ingest,
        Body::Fields("distinct_ids:string[] environment_id:string"),
        200,
        "Undo that",
    ),
    ("GET", "/api/dlq", Class::Admin, Body::None, 200, "Dead letters, newest first, in pages"),
    ("GET", "/api/dlq/stats", Class::Admin, Body::None, 200, "How many, by reason and status"),
    (
        "POST",
        "/api/dlq/replay",
        Class::Admin,
        Body::Fields("selection:object! fix:object again:boolean dry_run:boolean max:integer rate:integer"),
        202,
        "Write dead letters to their topic again",
    ),
    (
        "POST",
        "/api/dlq/discard",
        Class::Admin,
        Body::Fields("selection:object! reason:string! dry_run:boolean max:integer"),
        202,
        "Give dead letters up",
    ),
    ("GET", "/api/dlq/{dead_letter_id}", Class::Admin, Body::None, 200, "One dead letter whole"),
    ("GET", "/api/webhooks", Class::Admin, Body::None, 200, "Webhooks"),
    (
        "POST",
        "/api/webhooks",
        Class::Admin,
        Body::Fields("url:string! events:string[] description:string ordered:boolean environment_id:string"),
        201,
        "Make a webhook; the answer has the secret that signs",
    ),
    ("GET", "/api/webhooks/events", Class::Admin, Body::None, 200, "The kinds of system events"),
    ("GET", "/api/webhooks/{webhook_id}", Class::Admin, Body::None, 200, "One webhook"),
    (
        "PATCH",
        "/api/webhooks/{webhook_id}",
        Class::Admin,
        Body::Fields("url:string events:string[] description:string ordered:boolean enabled:boolean"),
        200,
        "Change it",
    ),
    ("DELETE", "/api/webhooks/{webhook_id}", Class::Admin, Body::None, 204, "Delete it with its deliveries"),
    ("GET", "/api/webhooks/{webhook_id}/secret", Class::Admin, Body::None, 200, "What signs its deliveries"),
    (
        "POST",
        "/api/webhooks/{webhook_id}/rotate-secret",
        Class::Admin,
        Body::Fields("keep:string"),
        200,
        "Sign with another secret; the one so far signs beside it for a while",
    ),
    ("POST", "/api/webhooks/{webhook_id}/test", Class::Admin, Body::None, 202, "Send it a test event"),
    ("POST", "/api/webhooks/{webhook_id}/replay", Class::Admin, Body::None, 202, "Deliver dead ones again"),
    (
        "GET",
        "/api/webhooks/{webhook_id}/deliveries",
        Class::Admin,
        Body::None,
        200,
        "Its deliveries, in pages",
    ),
    (
        "GET",
        "/api/webhooks/{webhook_id}/deliveries/{delivery_id}",
        Class::Admin,
        Body::None,
        200,
        "One delivery with its attempts",
    ),
    (
        "POST",
        "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/replay",
        Class::Admin,
        Body::None,
        202,
        "Deliver it again",
    ),
    ("GET", "/api/schemas", Class::Query, Body::None, 200, "Schemas of events"),
    (
        "POST",
        "/api/schemas",
        Class::Admin,
        Body::Fields("event:string! definition:object! compatibility:string policy:string"),
        201,
        "Make a schema for an event, with its first version",
    ),
    ("GET", "/api/schemas/{schema_id}", Class::Query, Body::None, 200, "One schema with its versions"),
    (
        "PATCH",
        "/api/schemas/{schema_id}",
        Class::Admin,
        Body::Fields("compatibility:string policy:string"),
        200,
        "Change what the next version has to be, and what happens to events that do not fit",
    ),
    ("DELETE", "/api/schemas/{schema_id}", Class::Admin, Body::None, 200, "Delete it with its versions"),
    ("POST", "/api/schemas/{schema_id}/versions", Class::Admin, NEXT_VERSION, 201, "Make the next version"),
    ("POST", "/api/schemas/{schema_id}/check", Class::Query, TRIED_VERSION, 200, "Would it be compatible?"),
    ("GET", "/api/rollups", Class::Query, Body::None, 200, "Hourly and daily counts: what there is"),
    (
        "POST",
        "/api/rollups/build",
        Class::Admin,
        Body::Fields("from:string! to:string!"),
        202,
        "Build the counts of these days anew",
    ),
    ("GET", "/api/jobs", Class::Admin, Body::None, 200, "Durable jobs, newest first, in pages"),
    ("GET", "/api/jobs/{job_id}", Class::Admin, Body::None, 200, "One job"),
    ("POST", "/api/jobs/{job_id}/cancel", Class::Admin, Body::None, 200, "Ask it to end"),
    (
        "POST",
        "/api/jobs/{job_id}/resume",
        Class::Admin,
        Body::None,
        200,
        "Go on with one that failed or was cancelled",
    ),
    ("GET", "/api/ops/components", Class::Admin, Body::None, 200, "The state of every component"),
    ("GET", "/api/ops/topics", Class::Admin, Body::None, 200, "Topics with their offsets"),
    ("POST", "/api/ops/topics/create", Class::Admin, Body::None, 200, "Create those that are missing"),
    (
        "POST",
        "/api/ops/topics/grow",
        Class::Admin,
        Body::Fields("topic:string! partitions:integer!"),
        200,
        "Give a topic more partitions",
    ),
    ("GET", "/api/ops/lag", Class::Admin, Body::None, 200, "How far consumer groups are behind"),
    ("GET", "/api/ops/history", Class::Admin, Body::None, 200, "What the pipeline did, by minute"),
    ("GET", "/api/ops/doctor", Class::Admin, Body::None, 200, "Is everything as it should be?"),
    ("POST", "/api/ops/migrate", Class::Admin, Body::None, 200, "Create or update the tables"),
    ("GET", "/api/ops/audit", Class::Admin, Body::None, 200, "Is every record accounted for?"),
    ("GET", "/api/ops/audit/metadata", Class::Operator, Body::None, 200, "Do rows say where they came from?"),
    (
        "POST",
        "/api/ops/audit/metadata/backfill",
        Class::Operator,
        Body::None,
        200,
        "Fill in what can be inferred, and mark it",
    ),
    ("GET", "/api/ops/properties", Class::Operator, Body::None, 200, "Properties with a column of their own"),
    (
        "POST",
        "/api/ops/properties/promote",
        Class::Operator,
        Body::Fields("key:string!"),
        202,
        "Give one a column",
    ),
    (
        "POST",
        "/api/ops/properties/demote",
        Class::Operator,
        Body::Fields("key:string!"),
        200,
        "Take its column away",
    ),
    (
        "POST",
        "/api/ops/consumer/resume",
        Class::Admin,
        Body::Fields("topic:string! partition:integer!"),
        202,
        "Let a stopped partition go on",
    ),
    (
        "POST",
        "/api/auth/register",
        Class::Anyone,
        Body::Fields("email:string! password:string! name:string invitation:string"),
        201,
        "Make an account and log in",
    ),
    (
        "POST",
        "/api/auth/login",
        Class::Anyone,
        Body::Fields("email:string! password:string!"),
        200,
        "Log in: an access token and a refresh token",
    ),
    (
        "POST",
        "/api/auth/refresh",
        Class::Anyone,
        Body::Fields("refresh_token:string!"),
        200,
        "The next pair of tokens; uses the refresh token up",
    ),
    ("GET", "/api/auth/me", Class::Person, Body::None, 200, "Who is logged in, with projects and roles"),
    (
        "POST",
        "/api/auth/password",
        Class::Person,
        Body::Fields("current_password:string! new_password:string!"),
        200,
        "Set another password; every other session ends",
    ),
    ("POST", "/api/auth/logout", Class::Person, Body::None, 200, "End this session"),
    ("GET", "/api/users", Class::Operator, Body::None, 200, "Accounts"),
    (
        "POST",
        "/api/users",
        Class::Operator,
        Body::Fields(
            "email:string! password:string name:string is_admin:boolean project_id:string role:string",
        ),
        201,
        "Make an account; without a password one is made and shown this once",
    ),
    (
        "POST",
        "/api/users/{user_id}/reset-password",
        Class::Operator,
        Body::Fields("password:string"),
        200,
        "Set another password; every session ends",
    ),
    ("POST", "/api/users/{user_id}/disable", Class::Operator, Body::None, 200, "Let a person in no more"),
    ("POST", "/api/users/{user_id}/enable", Class::Operator, Body::None, 200, "Let a person in again"),
    ("GET", "/api/signing-keys", Class::Operator, Body::None, 200, "What signs access tokens, by id"),
    ("POST", "/api/signing-keys/rotate", Class::Operator, Body::None, 200, "Sign with another from now on"),
    ("GET", "/api/audit-log", Class::Operator, Body::None, 200, "Who did what, in the whole installation"),
    (
        "GET",
        "/api/environments",
        Class::Credential,
        Body::None,
        200,
        "The environments that this credential can name",
    ),
    ("GET", "/api/projects", Class::Lists, Body::None, 200, "The projects that this credential reaches"),
    (
        "POST",
        "/api/projects",
        Class::Operator,
        NAME,
        201,
        "Make a project (anybody, where anybody may register)",
    ),
    ("GET", "/api/projects/{project_id}", Class::Member, Body::None, 200, "One project"),
    ("PATCH", "/api/projects/{project_id}", Class::Manager, NAME, 200, "Rename it"),
    (
        "DELETE",
        "/api/projects/{project_id}",
        Class::Manager,
        Body::None,
        200,
        "Delete it: hidden everywhere, its keys revoked",
    ),
    ("GET", "/api/projects/{project_id}/environments", Class::Member, Body::None, 200, "Its environments"),
    ("POST", "/api/projects/{project_id}/environments", Class::Manager, NAME, 201, "Make an environment"),
    (
        "PATCH",
        "/api/projects/{project_id}/environments/{environment_id}",
        Class::Manager,
        NAME,
        200,
        "Rename one",
    ),
    ("GET", "/api/projects/{project_id}/audit-log", Class::Manager, Body::None, 200, "Who did what in it"),
    ("GET", "/api/projects/{project_id}/members", Class::Member, Body::None, 200, "Its members"),
    (
        "POST",
        "/api/projects/{project_id}/members",
        Class::Manager,
        Body::Fields("email:string! role:string!"),
        201,
        "Make somebody with an account a member",
    ),
    (
        "PATCH",
        "/api/projects/{project_id}/members/{user_id}",
        Class::Manager,
        Body::Fields("role:string!"),
        200,
        "Give a member another role",
    ),
    (
        "DELETE",
        "/api/projects/{project_id}/members/{user_id}",
        Class::Manager,
        Body::None,
        200,
        "Take a member out",
    ),
    ("GET", "/api/projects/{project_id}/invitations", Class::Manager, Body::None, 200, "Its invitations"),
    (
        "POST",
        "/api/projects/{project_id}/invitations",
        Class::Manager,
        Body::Fields("email:string! role:string!"),
        201,
        "Invite somebody; the token is shown this once",
    ),
    (
        "DELETE",
        "/api/projects/{project_id}/invitations/{invitation_id}",
        Class::Manager,
        Body::None,
        200,
        "Take an invitation back",
    ),
    (
        "GET",
        "/api/projects/{project_id}/api-keys",
        Class::Manager,
        Body::None,
        200,
        "Its API keys, by prefix",
    ),
    (
        "POST",
        "/api/projects/{project_id}/api-keys",
        Class::Manager,
        Body::Fields(
            "name:string environment_id:string! scopes:string[]! expires_at:string rate_max:integer",
        ),
        201,
        "Make an API key; it is shown this once",
    ),
    ("DELETE", "/api/projects/{project_id}/api-keys/{key_id}", Class::Manager, Body::None, 200, "Revoke one"),
];

/// Routes that stand below `/v1` and below `/api/v1`.
const VERSIONED: &[Row] = &[
    ("POST", "/v1/events", Class::Ingest, METERING, 202, "Send one event"),
    ("POST", "/v1/events/bulk", Class::Ingest, METERING, 202, "Send events"),
    ("GET", "/v1/events", Class::Query, Body::None, 200, "Events, in pages"),
    ("POST", "/v1/events/query", Class::Query, METERING, 200, "Events, in pages"),
    ("POST", "/v1/events/list", Class::Query, METERING, 200, "Events, in pages"),
    ("GET", "/v1/events/lookup", Class::Query, Body::None, 200, "One event, by ?event_id="),
    ("GET", "/v1/events/{event_id}", Class::Query, Body::None, 200, "One event"),
    ("POST", "/v1/events/usage", Class::Query, METERING, 200, "Usage by event name"),
    ("POST", "/v1/events/usage/meter", Class::Query, METERING, 200, "Usage by meter"),
    ("POST", "/v1/events/analytics", Class::Query, METERING, 200, "Usage by feature, over time"),
    ("POST", "/v1/meter-usage/query", Class::Query, METERING, 200, "Usage by meter"),
    ("POST", "/v1/meter-usage/analytics", Class::Query, METERING, 200, "Usage by feature, over time"),
    (
        "POST",
        "/v1/meter-usage/detailed-analytics",
        Class::Query,
        METERING,
        200,
        "Usage by feature, over time",
    ),
    ("POST", "/v1/events/huggingface-billing", Class::Query, METERING, 200, "Costs of requests"),
    ("POST", "/v1/events/huggingface-inference", Class::Query, METERING, 200, "Costs of requests"),
    ("GET", "/v1/events/monitoring", Class::Query, Body::None, 200, "How far ingestion is"),
    ("POST", "/v1/events/void", Class::Admin, METERING, 200, "Void events"),
    ("POST", "/v1/events/amend", Class::Admin, METERING, 200, "Amend an event"),
    ("GET", "/v1/events/corrections", Class::Query, Body::None, 200, "What was voided and amended"),
    ("GET", "/v1/meters", Class::Query, Body::None, 200, "Meters"),
    ("POST", "/v1/meters", Class::Admin, METERING, 201, "Make a meter"),
    ("GET", "/v1/meters/{meter_id}", Class::Query, Body::None, 200, "One meter"),
    ("PUT", "/v1/meters/{meter_id}", Class::Admin, METERING, 200, "Change it, from a moment on"),
    ("PATCH", "/v1/meters/{meter_id}", Class::Admin, METERING, 200, "Change it, from a moment on"),
    ("DELETE", "/v1/meters/{meter_id}", Class::Admin, Body::None, 200, "Archive it"),
    ("POST", "/v1/meters/{meter_id}/disable", Class::Admin, Body::None, 200, "Archive it"),
    ("GET", "/v1/meters/{meter_id}/versions", Class::Query, Body::None, 200, "Its versions"),
    ("GET", "/v1/features", Class::Query, Body::None, 200, "Features"),
    ("POST", "/v1/features", Class::Admin, METERING, 201, "Make a feature"),
    ("GET", "/v1/features/{feature_id}", Class::Query, Body::None, 200, "One feature"),
    ("PUT", "/v1/features/{feature_id}", Class::Admin, METERING, 200, "Change it"),
    ("PATCH", "/v1/features/{feature_id}", Class::Admin, METERING, 200, "Change it"),
    ("DELETE", "/v1/features/{feature_id}", Class::Admin, Body::None, 200, "Delete it"),
];

/// Every route of the API: what the document and its page tell.
pub(super) fn api_routes() -> Vec<Route> {
    routes().into_iter().filter(|route| route.class != Class::Page).collect()
}

/// Every route.
pub fn routes() -> Vec<Route> {
    let route = |row: &Row, path: Cow<'static, str>| {
        let (method, _, class, body, status, summary) = *row;
        Route { method, path, class, body, status, summary }
    };
    let plain = ROWS.iter().chain(raw_routes::ROWS).map(|row| route(row, row.1.into()));
    let versioned = VERSIONED
        .iter()
        .chain(raw_routes::VERSIONED)
        .flat_map(|row| [route(row, row.1.into()), route(row, format!("/api{}", row.1).into())]);
    let page = |path: String| {
        let summary = "The page";
        Route { method: "GET", path: path.into(), class: Class::Page, body: Body::None, status: 200, summary }
    };
    let pages = ["/".to_owned(), "/web/{version}/{file}".to_owned()]
        .into_iter()
        .chain(SCREENS.iter().flat_map(|screen| [format!("/{screen}"), format!("/{screen}/{{rest}}")]))
        .map(page);
    plain.chain(versioned).chain(pages).collect()
}
