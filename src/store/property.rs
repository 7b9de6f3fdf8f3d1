//! The one place that turns a property of an event into SQL.

use super::Sql;
use super::hot::column_of;

/// A property of the table `events`, as expressions. Hot keys are read from their column, others from the JSON text.
///
/// Absent, `null`, numbers, text, booleans and nested values stay different in [`Property::raw`]; the other
/// expressions say what each becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    raw: Sql,
    text: Sql,
}

impl Property {
    /// The top-level property `key`.
    pub fn new(key: &str) -> Self {
        match column_of(key) {
            Some(column) => Self::of_json(Sql::default().name(column)),
            None => {
                let key = Sql::default().arg(key);
                let of = |function| Sql::new(function).push("(properties, ").append(&key).push(")");
                Self::of_parts(of("JSONExtractRaw"), &of("JSONExtractString"))
            }
        }
    }

    /// The property whose JSON text `json` is: an expression of type `String`, empty where it is absent.
    pub fn of_json(json: Sql) -> Self {
        // Most texts have no escapes: what stands between the quotes is the text.
        let inside = Sql::new("if(position(").append(&json).push(", '\\\\') = 0, substring(").append(&json);
        let inside = inside.push(", 2, length(").append(&json).push(") - 2), JSONExtractString(");
        let string = inside.append(&json).push("))");
        Self::of_parts(json, &string)
    }

    /// The property whose value is this text, an expression of type `String`: empty is absent.
    pub fn of_text(text: &Sql) -> Self {
        let raw = Sql::new("if(").append(text).push(" = '', '', toJSONString(").append(text).push("))");
        Self { raw, text: Sql::new("nullIf(").append(text).push(", '')") }
    }

    /// The member `inner` of the object that the top-level property `key` is.
    pub fn within(key: &str, inner: &str) -> Self {
        let path = Sql::default().arg(key).push(", ").arg(inner);
        let of = |function| Sql::new(function).push("(properties, ").append(&path).push(")");
        Self::of_parts(of("JSONExtractRaw"), &of("JSONExtractString"))
    }

    fn of_parts(raw: Sql, string: &Sql) -> Self {
        let text = Sql::new("multiIf(")
            .append(&raw)
            .push(" IN ('', 'null'), NULL, startsWith(")
            .append(&raw)
            .push(", '\"'), ")
            .append(string)
            .push(", ")
            .append(&raw)
            .push(")");
        Self { raw, text }
    }

    /// `String`: the value's JSON text; empty when absent. `null`, `1`, `"1"`, `true`, `{}` are as they are.
    pub fn raw(&self) -> Sql {
        self.raw.clone()
    }

    /// `UInt8`: is it there, and not `null`?
    pub fn is_set(&self) -> Sql {
        Sql::new("(").append(&self.raw).push(" NOT IN ('', 'null'))")
    }

    /// `Nullable(String)`: a text without its quotes, a number or boolean as it is written, a nested value as JSON;
    /// `NULL` when absent or `null`.
    pub fn text(&self) -> Sql {
        self.text.clone()
    }

    /// `Nullable(Float64)`: a JSON number, or a text that is a number and nothing else; `NULL` for everything else.
    pub fn number(&self) -> Sql {
        let number = Sql::new("toFloat64OrNull(ifNull(").append(&self.text).push(", ''))");
        // The server reads the texts "nan" and "inf" as numbers.
        Sql::new("if(isFinite(").append(&number).push("), ").append(&number).push(", NULL)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_key_is_read_from_its_column_and_any_other_from_the_text() {
        assert_eq!(Property::new("price").raw().text(), "`p_price`");
        assert_eq!(Property::new("x'y").raw().text(), r"JSONExtractRaw(properties, 'x\'y')");
        assert_eq!(
            Property::new("x").text().text(),
            "multiIf(JSONExtractRaw(properties, 'x') IN ('', 'null'), NULL, startsWith(JSONExtractRaw(properties, 'x'), \
             '\"'), JSONExtractString(properties, 'x'), JSONExtractRaw(properties, 'x'))"
        );
    }
}
