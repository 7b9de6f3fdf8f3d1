//! The one error body of every surface, and the closed list of its codes.
//!
//! The doubled form (`code`, `message` and again `error.message`) is what both generations of FlexPrice's SDKs parse.

use std::fmt;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Map, Value, json};

/// What went wrong, for programs. RUNBOOK has a section for every code; a test keeps it so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    ValidationError,
    Unauthorized,
    PermissionDenied,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    PayloadTooLarge,
    UnsupportedMediaType,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: &'static [Self] = &[
        Self::ValidationError,
        Self::Unauthorized,
        Self::PermissionDenied,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::AlreadyExists,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::TooManyRequests,
        Self::InternalError,
        Self::ServiceUnavailable,
    ];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "validation_error",
            Self::Unauthorized => "unauthorized",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::AlreadyExists => "already_exists",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooManyRequests => "too_many_requests",
            Self::InternalError => "internal_error",
            Self::ServiceUnavailable => "service_unavailable",
        }
    }

    /// Its HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::ValidationError => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::AlreadyExists => StatusCode::CONFLICT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An answer that says what is wrong and what to do about it.
///
/// `message` is for the client. A cause that is not (5xx) is logged with the request id and never leaves.
#[derive(Debug)]
pub struct Problem {
    pub code: ErrorCode,
    pub message: String,
    /// Facts for programs: `field`, `given`, `valid`, `max`, …
    pub details: Map<String, Value>,
    /// Sent as `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Logged, never sent.
    pub cause: Option<anyhow::Error>,
}

impl Problem {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Map::new(), retry_after: None, cause: None }
    }

    /// 400 about one field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ValidationError, message).with("field", field)
    }

    /// 503: nothing that was accepted is lost; try again after `retry_after`.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorCode::ServiceUnavailable, message) }
    }

    /// 500: our fault; the cause is logged and the client gets the request id to quote.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let message = "something failed on our side; the log has the cause under this request id";
        Self { cause: Some(cause.into()), ..Self::new(ErrorCode::InternalError, message) }
    }

    /// Adds a fact to `details`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same again, its cause as text: an error that actix holds can be looked at, not taken.
    pub fn for_request(&self) -> Self {
        Self {
            code: self.code,
            message: self.message.clone(),
            details: self.details.clone(),
            retry_after: self.retry_after,
            cause: self.cause.as_ref().map(|cause| anyhow::anyhow!("{cause:#}")),
        }
    }

    /// The body, for the request with this id.
    pub fn body(&self, request_id: &str) -> Value {
        json!({
            "code": self.code.as_str(),
            "message": self.message,
            "http_status_code": self.code.status().as_u16(),
            "request_id": request_id,
            "details": self.details,
            "success": false,
            "error": { "message": self.message, "internal_error": "", "details": self.details },
        })
    }

    /// The whole answer, for the request with this id.
    pub fn response(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        if let Some(wait) = self.retry_after {
            // Whole seconds, and never early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        response.json(self.body(request_id))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// [`super::Edge`] fills in the id.
    fn error_response(&self) -> HttpResponse {
        self.response("")
    }
}
