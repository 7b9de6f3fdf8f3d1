//! Which web origins may call from a browser. No cookies are used anywhere, so credentials are never allowed.

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::http::{Method, StatusCode};

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
const REQUEST_HEADERS: &str =
    "Authorization, Content-Encoding, Content-Type, X-API-Key, X-Environment-ID, X-Project-ID, X-Request-ID";
const ANSWER_HEADERS: &str = "Retry-After, X-Request-ID";
/// Seconds a browser may remember a preflight's answer.
const MAX_AGE: &str = "600";

/// The origins of `server.cors_origins`; `*` stands for any.
#[derive(Debug)]
pub(super) struct Cors {
    origins: Vec<String>,
    any: bool,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Self {
        let origins: Vec<String> = origins.iter().map(|o| o.trim_end_matches('/').to_owned()).collect();
        Self { any: origins.iter().any(|origin| origin == "*"), origins }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any || self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    }

    /// The answer to a browser's question before a call; `None` if the request is not one, or no origin is configured.
    pub(super) fn preflight(&self, request: &ServiceRequest) -> Option<HttpResponse> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            && headers.get(header::ORIGIN).is_some_and(|origin| self.allows(origin));
        asks.then(|| {
            HttpResponse::build(StatusCode::NO_CONTENT)
                .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
                .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
                .insert_header((header::ACCESS_CONTROL_MAX_AGE, MAX_AGE))
                .finish()
        })
    }

    /// Lets a browser hand the answer to a page of an allowed origin.
    pub(super) fn dress(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS));
        }
    }
}
