//! Expressions of the caller's own, wherever a question takes one: as what is counted (`math` `hogql`), as a value that is
//! split by, filtered by or aggregated by (`type` `expression`), as a filter, as the name of a node.
//!
//! They are written in the words of `POST /api/query/sql`, over one event: `event`, `distinct_id`, `timestamp`,
//! `properties.plan`, `properties['a b']`, `person.properties.email`, `$group_0`, … (`sql/inside.rs` has all of them). What
//! is sent is parsed and written anew from what is allowed; what only the store can find wrong in it is the caller's
//! mistake as well, and told so.

use super::filter::Ground;
use super::sql::inside::{self, Read};
use super::sql::not_understood;
use super::sql::parts::OfEvents;
use crate::http::Problem;
use crate::store::{Property, Sql, StoreError};

/// Stands before every expression in a statement, with its field behind.
const MARK: &str = "/* expression.";

/// The condition that `text` is; missing counts as false.
///
/// # Errors
/// 400 of `field`.
pub(super) fn condition(text: &str, field: &str, ground: &Ground<'_>) -> Result<Sql, Problem> {
    let condition = inside::condition(text, ground).map_err(|problem| of_field(problem, field))?;
    Ok(Sql::new("ifNull(").append(&marked(field)).append(&condition).push(", false)"))
}

/// The value of `text` for each event, as a property.
///
/// # Errors
/// 400 of `field`.
pub(super) fn property(text: &str, field: &str, ground: &Ground<'_>) -> Result<Property, Problem> {
    match inside::of_event(text, ground).map_err(|problem| of_field(problem, field))? {
        Read::Property(property) => Ok(property),
        // Of an empty text there is nothing to split by or to count.
        Read::Sql(sql) => {
            let text = Sql::new("ifNull(toString(").append(&marked(field)).append(&sql).push("), '')");
            Ok(Property::of_text(&text))
        }
    }
}

/// `Nullable(Float64)` in each form: the value of `text` over the events of a bucket.
///
/// # Errors
/// 400 of `field`.
pub(super) fn aggregate(text: &str, field: &str, ground: &Ground<'_>) -> Result<OfEvents, Problem> {
    let read = inside::of_events(text, ground).map_err(|problem| of_field(problem, field))?;
    let read = read.ok_or_else(|| {
        let message = format!(
            "{field} makes no one number of many events: use sum(…), avg(…), count(), uniq(…) or another"
        );
        Problem::invalid(field, message).with("given", text.chars().take(200).collect::<String>())
    })?;
    Ok(read.map(|sql| {
        let number = Sql::new("toFloat64(").append(&marked(field)).append(sql).push(")");
        Sql::new("if(isFinite(").append(&number).push("), ").append(&number).push(", NULL)")
    }))
}

fn marked(field: &str) -> Sql {
    // What stands behind the mark is found again by [`field_of`].
    Sql::default().note(&format!("expression.{field}"))
}

/// The field of the first expression in a statement.
pub(super) fn field_of(sql: &Sql) -> Option<String> {
    let (_, rest) = sql.text().split_once(MARK)?;
    rest.split(' ').next().map(str::to_owned)
}

/// What the store's error says about the expression of `field`; none: it is about something else.
pub(super) fn problem(error: &StoreError, field: &str) -> Option<Problem> {
    let said = not_understood(error)?;
    let message = format!("{field}: the store cannot work out the expression: {said}");
    Some(Problem::invalid(field, message))
}

/// The words of the room of SQL, about another field.
fn of_field(problem: Problem, field: &str) -> Problem {
    if problem.details.get("field").and_then(|field| field.as_str()) != Some("query") {
        return problem;
    }
    let message = match problem.details.get("given").and_then(|given| given.as_str()) {
        Some(given) => format!(
            "{field} uses {given}, which is not allowed: an expression has columns and properties of the event, literals \
             and the functions of /api/query/sql"
        ),
        None => problem.message.replacen("query", field, 1),
    };
    Problem { message, ..problem }.with("field", field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_of_an_expression_is_found_in_its_statement() {
        let sql = Sql::new("SELECT ").append(&marked("series[0].math_expression */ x")).push("1");
        assert_eq!(field_of(&sql).unwrap(), "series[0].math_expressionx");
        assert_eq!(field_of(&Sql::new("SELECT 1")), None);
    }
}
