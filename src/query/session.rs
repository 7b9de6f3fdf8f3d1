//! Sessions: the events that carry one session id, and what is true of all of them together.

use super::filter::{self, Ground};
use super::statement::{self, View};
use crate::http::Problem;
use crate::store::{Property, Sql};

/// The event property that carries the session where the event's own field does not.
pub(super) const KEY: &str = "$session_id";

const KEYS: [&str; 6] = [
    "$session_duration",
    "$event_count",
    "$pageview_count",
    "$is_bounce",
    "$entry_current_url",
    "$exit_current_url",
];

/// `String`: the session of an event; empty without one.
pub(super) fn id() -> Sql {
    let property = Property::new(KEY).text();
    Sql::new("if(session_id != '', session_id, ifNull(").append(&property).push(", ''))")
}

/// The condition that the event's session has a property for which `holds`. What is missing, for events without a
/// session too, is held against `holds` as an absent property. A session is bounced if it has at most one page view
/// and lasted under ten seconds.
///
/// # Errors
/// 400: no such property, and what `holds` refuses.
pub(super) fn condition(
    key: &str,
    field: &str,
    ground: &Ground<'_>,
    holds: impl Fn(&Property) -> Result<Option<Sql>, Problem>,
) -> Result<Option<Sql>, Problem> {
    let value = value(key, field)?;
    let held = holds(&Property::of_json(Sql::new("session_value")))?;
    let (Some(held), Some(absent)) = (held, holds(&Property::of_json(Sql::new("''")))?) else {
        return Ok(None);
    };
    let columns = Sql::new("").append(&id()).push(" AS session, ").append(&value).push(" AS session_value");
    let sessions = statement::events(ground.actors.scope(), View::Deduplicated, &columns)
        .and(Sql::new("").append(&id()).push(" != ''"))
        .then(Sql::new("GROUP BY session"));
    let found = Sql::new("(SELECT session FROM (").append(&sessions.sql()).push(") WHERE ").append(&held);
    let condition = Sql::new("if(").append(&id()).push(" = '', ").append(&absent).push(", ").append(&id());
    Ok(Some(condition.push(" IN ").append(&found).push("))")))
}

/// The property `key` of an event's session, to be split by.
///
/// # Errors
/// 400: no such property.
pub(super) fn property(key: &str, field: &str, ground: &Ground<'_>) -> Result<Property, Problem> {
    Ok(ground.actors.session_property(&value(key, field)?))
}

/// The JSON text of a property over the rows of one session.
fn value(key: &str, field: &str) -> Result<Sql, Problem> {
    let at = View::Deduplicated.time();
    let seconds = Sql::new("(max(").append(&at).push(") - min(").append(&at).push(")) / 1000");
    let url = |edge: &'static str| {
        let url = Property::new("$current_url");
        let column = Sql::new("toJSONString(ifNull(").push(edge).push("(").append(&url.text());
        column.push(", ").append(&at).push("), ''))")
    };
    let pages = "countIf(event_name = '$pageview')";
    Ok(match key {
        "$session_duration" => Sql::new("toString(").append(&seconds).push(")"),
        "$event_count" => Sql::new("toString(count())"),
        "$pageview_count" => Sql::new("toString(").push(pages).push(")"),
        "$is_bounce" => {
            Sql::new("if(").push(pages).push(" <= 1 AND ").append(&seconds).push(" < 10, 'true', 'false')")
        }
        "$entry_current_url" => url("argMin"),
        "$exit_current_url" => url("argMax"),
        _ => return Err(filter::unknown_key(key, field, &KEYS)),
    })
}
