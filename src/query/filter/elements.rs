//! What was clicked: filters on the elements of an `$autocapture` event.
//!
//! The page's script sends them as `$elements_chain`, a text of elements from the innermost to the outermost, divided by
//! `;`: a tag, its classes with a `.` before each, then `:` and `name="value"` after `name="value"`, quotes within a value
//! as `\"`; or as `$elements`, a list of objects, which is brought into that form. `key` is
//!
//! | `key` | |
//! |---|---|
//! | `tag_name`, `text`, `href` | of any of the elements |
//! | `selector` | what is clicked, or something around it, is found by this selector, see [`super::selector`] |
//!
//! Operators that are true of what is missing (`is_not`, …) are true where no element has the value.

use super::{Filter, Ground, Operator, compare, selector, unknown_key};
use crate::http::Problem;
use crate::store::{Property, Sql};

const KEYS: [&str; 4] = ["tag_name", "text", "href", "selector"];
/// One element of a chain; a `;` within quotes belongs to it.
const ELEMENT: &str = r#"(?:[^;"]|"(?:[^"\\]|\\.)*")+"#;
/// What stands between the quotes of a value.
const QUOTED: &str = r#"((?:[^"\\]|\\.)*)"#;

/// The condition; none where every event passes.
pub(super) fn condition(
    filter: &Filter,
    key: &str,
    path: &str,
    ground: &Ground<'_>,
) -> Result<Option<Sql>, Problem> {
    let values = match key {
        "selector" => return selector::condition(filter, path, &elements()),
        "tag_name" => {
            Sql::new("arrayMap(element -> extract(element, '^[^.:\"]*'), ").append(&elements()).push(")")
        }
        "text" => attribute("text"),
        "href" => attribute("(?:attr__)?href"),
        _ => return Err(unknown_key(key, &format!("{path}.key"), &KEYS)),
    };
    let set = Sql::new("arrayExists(element_value -> element_value != '', ").append(&values).push(")");
    let (operator, negated) = match filter.operator {
        Operator::IsSet => return Ok(Some(set)),
        Operator::IsNotSet => return Ok(Some(Sql::new("NOT ").append(&set))),
        Operator::IsNot => (Operator::Exact, true),
        Operator::NotIn => (Operator::In, true),
        Operator::NotIcontains => (Operator::Icontains, true),
        Operator::NotRegex => (Operator::Regex, true),
        Operator::SemverNeq => (Operator::SemverEq, true),
        operator => (operator, false),
    };
    let one = Filter { operator, ..filter.clone() };
    let value = Property::of_text(&Sql::new("element_value"));
    let Some(holds) = compare::condition(&one, &value, path, ground)? else { return Ok(None) };
    let any = Sql::new("arrayExists(element_value -> ").append(&holds).push(", ").append(&values).push(")");
    Ok(Some(if negated { Sql::new("NOT ").append(&any) } else { any }))
}

/// `Array(String)`: every value of this attribute in the event's elements.
fn attribute(name: &str) -> Sql {
    let pattern = format!(r#"[:"]{name}="{QUOTED}""#);
    Sql::new(r#"arrayMap(quoted -> replaceAll(quoted, '\\"', '"'), extractAll("#)
        .append(&chain())
        .push(", ")
        .arg(pattern)
        .push("))")
}

/// `Array(String)`: the event's elements, the innermost first.
fn elements() -> Sql {
    Sql::new("extractAll(").append(&chain()).push(", ").arg(ELEMENT).push(")")
}

/// `String`: the event's elements as a text; empty without any.
fn chain() -> Sql {
    let chain = Sql::new("ifNull(").append(&Property::new("$elements_chain").text()).push(", '')");
    let classes = "arrayConcat(JSONExtract(one, 'classes', 'Array(String)'), splitByWhitespace(JSONExtractString(one, \
                   'attr__class')))";
    let name = "transform(pair.1, ['$el_text', 'nth_child', 'nth_of_type'], ['text', 'nth-child', 'nth-of-type'], pair.1)";
    let value = r#"replaceAll(if(startsWith(pair.2, '"'), JSONExtractString(pair.2), pair.2), '"', '\\"')"#;
    let list = Sql::new(
        "arrayStringConcat(arrayMap(one -> concat(JSONExtractString(one, 'tag_name'), arrayStringConcat(arrayMap(class \
         -> concat('.', class), ",
    )
    .push(classes)
    .push(")), ':', arrayStringConcat(arrayMap(pair -> concat(")
    .push(name)
    .push(r#", '="', "#)
    .push(value)
    .push(r#", '"'), JSONExtractKeysAndValuesRaw(one)))), JSONExtractArrayRaw("#)
    .append(&Property::new("$elements").raw())
    .push(")), ';')");
    Sql::new("if(").append(&chain).push(" != '', ").append(&chain).push(", ").append(&list).push(")")
}
