//! Sessions: the events that carry one session id, and what is true of all of them together.

use super::filter::{self, Ground};
use super::statement::{self, View};
use crate::http::Problem;
use crate::store::{Property, Sql};

/// The event property that carries the session where the event's own field does not.
pub(super) const KEY: &str = "$session_id";

const KEYS: [&str; 23] = [
    "$session_duration",
    "$start_timestamp",
    "$end_timestamp",
    "$event_count",
    "$pageview_count",
    "$screen_count",
    "$autocapture_count",
    "$is_bounce",
    "$entry_current_url",
    "$entry_hostname",
    "$entry_pathname",
    "$exit_current_url",
    "$exit_hostname",
    "$exit_pathname",
    "$end_current_url",
    "$end_hostname",
    "$end_pathname",
    "$entry_referring_domain",
    "$entry_utm_source",
    "$entry_utm_medium",
    "$entry_utm_campaign",
    "$entry_utm_term",
    "$entry_utm_content",
];

/// `String`: the session of an event; empty without one.
pub(super) fn id() -> Sql {
    let property = Property::new(KEY).text();
    Sql::new("if(session_id != '', session_id, ifNull(").append(&property).push(", ''))")
}

/// The condition that the event's session has a property for which `holds`. What is missing, for events without a
/// session too, is held against `holds` as an absent property.
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

/// The JSON text of a property over the rows of one session. What it entered and left with is that of its first and last
/// event that has it. A session is bounced if it has at most one page or screen, nothing was clicked in it, and it lasts
/// under ten seconds.
fn value(key: &str, field: &str) -> Result<Sql, Problem> {
    let at = View::Deduplicated.time();
    let seconds = Sql::new("(max(").append(&at).push(") - min(").append(&at).push(")) / 1000");
    let time = |edge: &'static str| {
        let at = Sql::new("fromUnixTimestamp64Milli(").push(edge).push("(").append(&at).push("), 'UTC')");
        Sql::new("toJSONString(concat(replaceOne(toString(").append(&at).push("), ' ', 'T'), 'Z'))")
    };
    let text = |edge: &'static str, property: &str, of: &'static str| {
        let value = Sql::new("ifNull(").append(&Property::new(property).text()).push(", '')");
        let found = Sql::new(edge).push("(").append(&value).push(", (").append(&at).push(", event_id), ");
        let found = found.append(&value).push(" != '')");
        let found = Sql::new(of).push("(").append(&found).push(")");
        Sql::new("if(").append(&found).push(" = '', '', toJSONString(").append(&found).push("))")
    };
    let (first, last) = ("argMinIf", "argMaxIf");
    Ok(match key {
        "$session_duration" => Sql::new("toString(").append(&seconds).push(")"),
        "$start_timestamp" => time("min"),
        "$end_timestamp" => time("max"),
        "$event_count" => Sql::new("toString(count())"),
        "$pageview_count" => Sql::new("toString(countIf(event_name = '$pageview'))"),
        "$screen_count" => Sql::new("toString(countIf(event_name = '$screen'))"),
        "$autocapture_count" => Sql::new("toString(countIf(event_name = '$autocapture'))"),
        "$is_bounce" => Sql::new(
            "if(countIf(event_name IN ('$pageview', '$screen')) <= 1 AND countIf(event_name = '$autocapture') = 0 AND ",
        )
        .append(&seconds)
        .push(" < 10, 'true', 'false')"),
        "$entry_current_url" => text(first, "$current_url", "toString"),
        "$entry_hostname" => text(first, "$current_url", "domain"),
        "$entry_pathname" => text(first, "$current_url", "path"),
        "$exit_current_url" | "$end_current_url" => text(last, "$current_url", "toString"),
        "$exit_hostname" | "$end_hostname" => text(last, "$current_url", "domain"),
        "$exit_pathname" | "$end_pathname" => text(last, "$current_url", "path"),
        "$entry_referring_domain" => text(first, "$referring_domain", "toString"),
        "$entry_utm_source" => text(first, "utm_source", "toString"),
        "$entry_utm_medium" => text(first, "utm_medium", "toString"),
        "$entry_utm_campaign" => text(first, "utm_campaign", "toString"),
        "$entry_utm_term" => text(first, "utm_term", "toString"),
        "$entry_utm_content" => text(first, "utm_content", "toString"),
        _ => return Err(filter::unknown_key(key, field, &KEYS)),
    })
}
