//! What a question ends in: names, literals, operators, whole numbers.

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, ObjectName, ObjectNamePart, TableAlias, Value, WildcardAdditionalOptions,
};

use super::render::{Rendered, none, refused};
use crate::http::Problem;
use crate::store::Sql;

/// Is it a name, in however many parentheses?
pub(super) fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => is_name(inner),
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        _ => false,
    }
}

pub(super) fn ident(name: &Ident) -> Sql {
    Sql::default().name(&name.value)
}

/// The one part of a name.
pub(super) fn single(name: &ObjectName) -> Result<&Ident, Problem> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(only)] => Ok(only),
        _ => Err(refused(&format!("the name {name}"))),
    }
}

pub(super) fn called(alias: &TableAlias) -> Result<&str, Problem> {
    none(!alias.columns.is_empty() || alias.at.is_some(), "names of columns behind a table")?;
    Ok(&alias.name.value)
}

pub(super) fn plain_wildcard(options: &WildcardAdditionalOptions) -> Result<(), Problem> {
    let odd = options.opt_ilike.is_some()
        || options.opt_exclude.is_some()
        || options.opt_except.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
        || options.opt_alias.is_some();
    none(odd, "* with changes")
}

pub(super) fn literal(value: &Value) -> Rendered {
    match value {
        Value::Number(digits, false) => {
            let digits = digits.as_str();
            if let Ok(number) = digits.parse::<u64>() {
                return Ok(Sql::default().arg(number));
            }
            let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
            Ok(Sql::default().arg(number.ok_or_else(|| refused("this number"))?))
        }
        Value::SingleQuotedString(text) => Ok(Sql::default().arg(text)),
        Value::Boolean(truth) => Ok(Sql::default().arg(*truth)),
        Value::Null => Ok(Sql::new("NULL")),
        other => Err(refused(&format!("the literal {other}"))),
    }
}

/// A whole number that is written out.
pub(super) fn whole(expr: &Expr) -> Result<u64, Problem> {
    let text = match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, false) => Some(digits.to_string()),
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    };
    text.and_then(|text| text.parse().ok()).ok_or_else(|| refused("something else than a whole number here"))
}

pub(super) fn operator(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Plus => " + ",
        BinaryOperator::Minus => " - ",
        BinaryOperator::Multiply => " * ",
        BinaryOperator::Divide => " / ",
        BinaryOperator::Modulo => " % ",
        BinaryOperator::StringConcat => " || ",
        BinaryOperator::Gt => " > ",
        BinaryOperator::Lt => " < ",
        BinaryOperator::GtEq => " >= ",
        BinaryOperator::LtEq => " <= ",
        BinaryOperator::Eq => " = ",
        BinaryOperator::NotEq => " != ",
        BinaryOperator::And => " AND ",
        BinaryOperator::Or => " OR ",
        _ => return None,
    })
}
