//! The words of a surface: how its fields are called and which forms its bodies have. The core is the same for all.

/// How many events a body of a surface holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// One event, an array of them, or an object that has an array of them.
    Any,
    /// One event.
    One,
    /// An array, or an object that has one.
    Many,
}

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    /// What answers call the event's name, and the acting person.
    pub event: &'static str,
    pub distinct_id: &'static str,
    /// The key of the array in an object that holds many.
    pub envelope: &'static str,
    pub takes: Takes,
    /// `event_type` is another name of the event; such an event needs no person: it gets `anon_` and its id.
    pub event_type: bool,
    /// Most events of a request, where the surface promises fewer than `capture.batch_events_max`; over it: 400.
    pub events_max: Option<usize>,
}

/// Events of one bulk request on `/v1/events/bulk`, as its SDKs know it.
pub const BULK_EVENTS_MAX: usize = 1000;

impl Words {
    /// `/capture`.
    pub const CAPTURE: Self = Self {
        event: "event",
        distinct_id: "distinct_id",
        envelope: "batch",
        takes: Takes::Any,
        event_type: false,
        events_max: None,
    };

    /// `/v1/events`.
    pub const EVENT: Self = Self {
        event: "event_name",
        distinct_id: "external_customer_id",
        envelope: "events",
        takes: Takes::One,
        event_type: true,
        events_max: None,
    };

    /// `/v1/events/bulk`.
    pub const EVENTS: Self = Self { takes: Takes::Many, events_max: Some(BULK_EVENTS_MAX), ..Self::EVENT };

    /// How this surface calls a field of `/capture`.
    pub(super) fn of(&self, field: &'static str) -> &'static str {
        match field {
            "event" => self.event,
            "distinct_id" => self.distinct_id,
            other => other,
        }
    }
}
