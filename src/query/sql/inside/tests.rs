//! What an expression is written as, and what is none.

use super::*;
use crate::event::Timestamp;
use crate::query::actor::Actors;
use crate::query::interval::Calendar;
use crate::query::tests::{limits, scope};

fn read(text: &str) -> Result<String, Problem> {
    let calendar = Calendar { zone: chrono_tz::UTC, week_start: crate::query::WeekStart::default() };
    let (limits, actors) = (limits(), Actors::new(&scope(), false));
    let ground = Ground { calendar: &calendar, now: Timestamp::EPOCH, limits: &limits, actors: &actors };
    Ok(match of_event(text, &ground)? {
        Read::Property(property) => property.text().text().to_owned(),
        Read::Sql(sql) => sql.text().to_owned(),
    })
}

#[test]
fn a_property_is_what_its_place_needs() {
    let number = |key: &str| Property::new(key).number().text().to_owned();
    let text = |key: &str| Property::new(key).text().text().to_owned();
    for (expression, expected) in [
        ("properties.plan", text("plan")),
        ("properties['a b']", text("a b")),
        ("properties.$browser", text("$browser")),
        ("properties.price * 2", format!("({} * 2)", number("price"))),
        ("(properties.price) > 1.5", format!("({} > 1.5)", number("price"))),
        ("properties.plan = 'pro'", format!("({} = 'pro')", text("plan"))),
        ("properties.ok = true", format!("({} = 'true')", text("ok"))),
        ("false != properties.ok", format!("({} != 'false')", text("ok"))),
        ("not properties.ok", format!("(NOT ifNull({} = 'true', false))", text("ok"))),
        ("properties.n in (1, 2)", format!("({} IN (1, 2))", number("n"))),
        ("properties.n not in ('a')", format!("({} NOT IN ('a'))", text("n"))),
        ("round(properties.n, 1)", format!("round({}, 1)", number("n"))),
        ("coalesce(properties.n, 0)", format!("coalesce({}, 0)", number("n"))),
        ("coalesce(properties.n, 'x')", format!("coalesce({}, 'x')", text("n"))),
        ("toInt(properties.n)", format!("accurateCastOrNull({}, 'Int64')", number("n"))),
        ("if(properties.ok, 'a', 'b')", format!("if(ifNull({} = 'true', false), 'a', 'b')", text("ok"))),
        ("arrayMap(x -> x + 1, [1])", "arrayMap((`x`) -> (`x` + 1), [1])".to_owned()),
        ("distinct_id || event", "(distinct_id || toString(event_name))".to_owned()),
    ] {
        assert_eq!(read(expression).unwrap(), expected, "{expression}");
    }
}

#[test]
fn whatever_is_no_expression_of_one_event_is_refused() {
    for text in [
        "",
        "1; SELECT 1",
        "properties.a, properties.b",
        "(SELECT 1)",
        "event IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "sum(properties.n)",
        "rank()",
        "count() OVER ()",
        "sleep(3)",
        "file('/etc/passwd')",
        "(1, 2) IN person_edges",
        "(1, 2) IN (person_edges)",
        "events_dlq",
        "project_id",
        "person.secret",
        "properties.a.b",
        "x",
        "arrayMap(x -> x, [1]) = x",
        "{p:Identifier}",
        "event /* ",
    ] {
        let problem = read(text).map(|sql| panic!("{text}: {sql}")).unwrap_err();
        assert_eq!(problem.details["field"], "query", "{text}");
    }
    assert!(read(&format!("{}1", "1 + ".repeat(400))).is_err());
    assert!(read(&format!("'{}'", "x".repeat(3000))).is_err());
    assert!(read("evnt").unwrap_err().message.contains("did you mean event?"));
}
