//! An expression that is a part of another question: over the columns and properties of one event.
//!
//! A property is a text. Where a number is needed (beside arithmetic, compared with a number, as the argument of a
//! function of numbers) it is its number, where a condition is needed it says whether it is `true`.

#[cfg(test)]
mod tests;

use sqlparser::ast::{
    AccessExpr, BinaryOperator, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Subscript, UnaryOperator, Value,
};
use sqlparser::dialect::{ClickHouseDialect, Dialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::leaves::{ident, is_name, operator, single};
use super::parts::{Aggregates, Call, OfEvents};
use super::render::{Rendered, Renderer, none, refused};
use super::words;
use crate::http::{Problem, strict};
use crate::query::filter::{self, Ground, PropertyKind};
use crate::query::groups::{self, Meant};
use crate::query::session;
use crate::store::{Property, Sql};

/// Longest expression, in bytes.
const BYTES_MAX: usize = 2_000;

/// Columns, and what else may begin a name.
const NAMES: [&str; 14] = [
    "event",
    "distinct_id",
    "person_id",
    "timestamp",
    "received_at",
    "event_id",
    "uuid",
    "session_id",
    "$session_id",
    "source",
    "customer_id",
    "properties",
    "person",
    "groups",
];

/// Functions whose arguments are numbers.
const NUMBERS: &[&str] = &[
    "abs",
    "acos",
    "asin",
    "atan",
    "atan2",
    "avg",
    "cbrt",
    "ceil",
    "clamp",
    "corr",
    "cos",
    "covarPop",
    "covarSamp",
    "degrees",
    "divide",
    "exp",
    "exp10",
    "exp2",
    "floor",
    "hypot",
    "intDiv",
    "intDivOrZero",
    "isFinite",
    "isNaN",
    "log",
    "log10",
    "log1p",
    "log2",
    "max",
    "median",
    "min",
    "minus",
    "modulo",
    "moduloOrZero",
    "multiply",
    "negate",
    "plus",
    "pow",
    "power",
    "quantile",
    "quantileExact",
    "quantiles",
    "quantilesExact",
    "radians",
    "round",
    "roundBankers",
    "roundDown",
    "sign",
    "sin",
    "sqrt",
    "stddevPop",
    "stddevSamp",
    "sum",
    "tan",
    "trunc",
    "varPop",
    "varSamp",
    "widthBucket",
    "skewPop",
    "skewSamp",
    "kurtPop",
    "kurtSamp",
    "avgWeighted",
];

/// What an expression may name, and what it has named.
pub(super) struct Inside<'a> {
    pub(super) ground: &'a Ground<'a>,
    /// Over many events: the aggregates within; none: it is over one.
    pub(super) aggregates: Option<Aggregates>,
    pub(super) aggregated: bool,
    /// Names that the lambdas around have given.
    pub(super) parameters: Vec<String>,
}

/// What an expression is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// As it is; of a property, its text.
    AsIs,
    Number,
    Truth,
}

/// What a name stands for.
enum Named {
    Property(Property),
    Column(Sql),
}

/// What an expression was read as.
pub(in crate::query) enum Read {
    /// Nothing but a property.
    Property(Property),
    Sql(Sql),
}

/// The store's dialect, in which a name may begin with `$`, as names of properties do.
#[derive(Debug)]
struct Words;

impl Dialect for Words {
    fn dialect(&self) -> std::any::TypeId {
        ClickHouseDialect {}.dialect()
    }

    fn is_identifier_start(&self, character: char) -> bool {
        character == '$' || ClickHouseDialect {}.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        character == '$' || ClickHouseDialect {}.is_identifier_part(character)
    }

    fn supports_string_literal_backslash_escape(&self) -> bool {
        true
    }

    fn require_interval_qualifier(&self) -> bool {
        true
    }

    fn supports_lambda_functions(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_comma_separated_trim(&self) -> bool {
        true
    }
}

/// Reads an expression over one event.
///
/// # Errors
/// 400 of field `query`: it is none, or uses what is not allowed.
pub(in crate::query) fn of_event(text: &str, ground: &Ground<'_>) -> Result<Read, Problem> {
    let mut renderer = renderer(ground, None);
    let expr = parsed(text)?;
    match renderer.property(&expr)? {
        Some(property) => Ok(Read::Property(property)),
        None => renderer.expr(&expr).map(Read::Sql),
    }
}

/// Reads a condition over one event.
///
/// # Errors
/// As [`of_event`].
pub(in crate::query) fn condition(text: &str, ground: &Ground<'_>) -> Rendered {
    renderer(ground, None).wanted(&parsed(text)?, Wanted::Truth)
}

/// Reads an expression over many events; none: it does not make one value of them.
///
/// # Errors
/// As [`of_event`].
pub(in crate::query) fn of_events(text: &str, ground: &Ground<'_>) -> Result<Option<OfEvents>, Problem> {
    let expr = parsed(text)?;
    let mut aggregated = false;
    let read = OfEvents::of(|aggregates| {
        let mut renderer = renderer(ground, Some(aggregates));
        let sql = renderer.wanted(&expr, Wanted::Number)?;
        let inside = renderer.inside.ok_or_else(|| refused("this form"))?;
        aggregated |= inside.aggregated;
        Ok((sql, inside.aggregates.ok_or_else(|| refused("this form"))?))
    })?;
    Ok(aggregated.then_some(read))
}

fn renderer<'a>(ground: &'a Ground<'a>, aggregates: Option<Aggregates>) -> Renderer<'a> {
    let inside = Inside { ground, aggregates, aggregated: false, parameters: Vec::new() };
    let (scope, actors) = (ground.actors.scope(), ground.actors);
    Renderer { scope, actors, ctes: Vec::new(), depth: 0, inside: Some(inside) }
}

fn parsed(text: &str) -> Result<Expr, Problem> {
    if text.len() > BYTES_MAX {
        let message = format!("query has {} bytes; it may have {BYTES_MAX}", text.len());
        return Err(Problem::invalid("query", message).with("max", BYTES_MAX));
    }
    let not = |error| Problem::invalid("query", format!("query is no expression: {error}"));
    let mut parser = Parser::new(&Words).try_with_sql(text).map_err(not)?;
    let expr = parser.parse_expr().map_err(not)?;
    let rest = parser.peek_token().token;
    none(rest != Token::EOF, &format!("{rest} behind the expression"))?;
    Ok(expr)
}

/// Without parentheses.
fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => bare(inner),
        other => other,
    }
}

fn is_arithmetic(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Plus | Minus | Multiply | Divide | Modulo)
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Gt | Lt | GtEq | LtEq | Eq | NotEq)
}

/// The store's name of a number's type, for functions that make one out of anything: of what is none, `NULL`.
fn number_type(function: &str) -> Option<&'static str> {
    Some(match function {
        "toFloat" | "toFloat64" | "toFloat32" | "toFloatOrNull" | "toFloat64OrNull" => "Float64",
        "toInt" | "toInt64" | "toInt32" | "toIntOrNull" | "toInt64OrNull" => "Int64",
        _ => return None,
    })
}

fn is_boolean(expr: &Expr) -> Option<bool> {
    match bare(expr) {
        Expr::Value(value) => match &value.value {
            Value::Boolean(truth) => Some(*truth),
            _ => None,
        },
        _ => None,
    }
}

impl Renderer<'_> {
    /// An expression inside of a question.
    pub(super) fn inside(&mut self, expr: &Expr) -> Rendered {
        match expr {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } => {
                match self.named(expr)? {
                    Some(Named::Property(property)) => Ok(property.text()),
                    Some(Named::Column(column)) => Ok(column),
                    None => self.expr_here(expr),
                }
            }
            Expr::BinaryOp { left, op, right } => self.operation(left, op, right),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                Ok(Sql::new("(NOT ").append(&self.wanted(expr, Wanted::Truth)?).push(")"))
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
                Ok(Sql::new("(-").append(&self.wanted(expr, Wanted::Number)?).push(")"))
            }
            Expr::Between { expr, negated, low, high } => {
                let ends = self.is_number(low) || self.is_number(high);
                let wanted = if ends { Wanted::Number } else { Wanted::AsIs };
                let sql = Sql::new("(").append(&self.wanted(expr, wanted)?);
                let sql = sql.push(if *negated { " NOT BETWEEN " } else { " BETWEEN " });
                let sql = sql.append(&self.wanted(low, wanted)?).push(" AND ");
                Ok(sql.append(&self.wanted(high, wanted)?).push(")"))
            }
            Expr::InList { expr, list, negated } => {
                none(list.iter().any(is_name), "a name in the list of IN")?;
                let wanted =
                    if list.iter().all(|item| self.is_number(item)) { Wanted::Number } else { Wanted::AsIs };
                let sql = Sql::new("(").append(&self.wanted(expr, wanted)?);
                let items = list.iter().map(|item| self.expr(item)).collect::<Result<Vec<_>, _>>()?;
                let sql = sql.push(if *negated { " NOT IN (" } else { " IN (" });
                Ok(sql.join(", ", &items).push("))"))
            }
            Expr::Ceil { expr, .. } => {
                Ok(Sql::new("ceil(").append(&self.wanted(expr, Wanted::Number)?).push(")"))
            }
            Expr::Floor { expr, .. } => {
                Ok(Sql::new("floor(").append(&self.wanted(expr, Wanted::Number)?).push(")"))
            }
            Expr::Function(function) => self.call(function),
            other => self.expr_here(other),
        }
    }

    fn operation(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Rendered {
        let name = operator(op).ok_or_else(|| refused(&format!("the operator {op}")))?;
        let compared = match (is_boolean(left), is_boolean(right)) {
            (None, Some(truth)) => Some((left, truth)),
            (Some(truth), None) => Some((right, truth)),
            _ => None,
        };
        if is_comparison(op)
            && let Some((other, truth)) = compared
            && let Some(property) = self.property(other)?
        {
            let text = if truth { "'true'" } else { "'false'" };
            return Ok(Sql::new("(").append(&property.text()).push(name).push(text).push(")"));
        }
        let wanted = match op {
            BinaryOperator::And | BinaryOperator::Or => Wanted::Truth,
            op if is_arithmetic(op) => Wanted::Number,
            op if is_comparison(op) && (self.is_number(left) || self.is_number(right)) => Wanted::Number,
            _ => Wanted::AsIs,
        };
        let left = self.wanted(left, wanted)?;
        Ok(Sql::new("(").append(&left).push(name).append(&self.wanted(right, wanted)?).push(")"))
    }

    fn call(&mut self, function: &Function) -> Rendered {
        let Function { name, uses_odbc_syntax, parameters, args, within_group, filter, null_treatment, over } =
            function;
        let odd =
            *uses_odbc_syntax || !within_group.is_empty() || filter.is_some() || null_treatment.is_some();
        none(odd, "this form of function")?;
        none(over.is_some(), "a window")?;
        let list = match args {
            FunctionArguments::None => return Ok(Sql::new(self.known(&single(name)?.value)?).push("()")),
            FunctionArguments::Subquery(_) => return Err(refused("a question within")),
            FunctionArguments::List(list) => list,
        };
        let given = &single(name)?.value;
        let args = plain(list)?;
        if let (Some(kind), [Some(arg)]) = (number_type(given), args.as_slice()) {
            let number = self.wanted(arg, Wanted::Number)?;
            return Ok(Sql::new("accurateCastOrNull(").append(&number).push(", ").arg(kind).push(")"));
        }
        let known = self.known(given)?;
        none(words::is_window(known), "a window")?;
        let mut rendered = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            rendered.push(match arg {
                None => Sql::new("*"),
                Some(arg) => {
                    let wanted = self.argument(known, index, &args);
                    self.wanted(arg, wanted)?
                }
            });
        }
        let parameters = match parameters {
            FunctionArguments::List(parameters) => self.arguments(parameters)?,
            _ => Sql::default(),
        };
        let aggregates = self.inside.as_mut().and_then(|inside| inside.aggregates.as_mut());
        if let Some(aggregates) = aggregates.filter(|_| words::is_aggregate(known)) {
            let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
            let (parameters, arguments) = (&parameters, rendered.as_slice());
            return Ok(aggregates.write(&Call { name: known, parameters, is_distinct, arguments }));
        }
        Ok(Sql::new(known).append(&parameters).append(&Self::called_with(list, &rendered)?))
    }

    /// The function of this name.
    fn known(&mut self, given: &str) -> Result<&'static str, Problem> {
        let known = Self::function_named(given)?;
        if words::is_aggregate(known)
            && let Some(inside) = &mut self.inside
        {
            none(inside.aggregates.is_none(), &format!("the function {known} over many events"))?;
            inside.aggregated = true;
        }
        Ok(known)
    }

    /// What a function's argument is to be.
    fn argument(&mut self, function: &str, index: usize, args: &[Option<&Expr>]) -> Wanted {
        let is_last = index + 1 == args.len();
        let plain = match function.strip_suffix("If") {
            Some(_) if words::is_aggregate(function) && is_last => return Wanted::Truth,
            Some(plain) if words::is_aggregate(function) => plain,
            _ => function,
        };
        match function {
            "and" | "or" | "not" | "xor" => return Wanted::Truth,
            "if" if index == 0 => return Wanted::Truth,
            "multiIf" if index.is_multiple_of(2) && !is_last => return Wanted::Truth,
            _ => {}
        }
        let values =
            matches!(function, "if" | "multiIf" | "ifNull" | "coalesce" | "nullIf" | "greatest" | "least");
        let beside_numbers = values
            && args.iter().enumerate().any(|(other, arg)| {
                let is_condition = match function {
                    "if" => other == 0,
                    "multiIf" => other.is_multiple_of(2) && other + 1 != args.len(),
                    _ => false,
                };
                !is_condition && arg.is_some_and(|arg| self.is_number(arg))
            });
        if beside_numbers || NUMBERS.contains(&plain) { Wanted::Number } else { Wanted::AsIs }
    }

    /// An expression as it is wanted.
    fn wanted(&mut self, expr: &Expr, wanted: Wanted) -> Rendered {
        match (wanted, self.property(expr)?) {
            (Wanted::Number, Some(property)) => Ok(property.number()),
            (Wanted::Truth, Some(property)) => {
                Ok(Sql::new("ifNull(").append(&property.text()).push(" = 'true', false)"))
            }
            _ => self.expr(expr),
        }
    }

    /// Does it say by its form that it is a number?
    fn is_number(&mut self, expr: &Expr) -> bool {
        match bare(expr) {
            Expr::Value(value) => matches!(value.value, Value::Number(..)),
            Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => self.is_number(expr),
            Expr::BinaryOp { left, op, right } => {
                is_arithmetic(op) && (self.is_number(left) || self.is_number(right))
            }
            Expr::Ceil { .. } | Expr::Floor { .. } => true,
            Expr::Function(function) => {
                let name = single(&function.name).map(|name| name.value.clone()).unwrap_or_default();
                number_type(&name).is_some()
                    || words::function(&name)
                        .is_some_and(|known| NUMBERS.contains(&known) || matches!(known, "length" | "count"))
            }
            _ => false,
        }
    }

    /// The property that an expression is, if it is nothing else.
    fn property(&mut self, expr: &Expr) -> Result<Option<Property>, Problem> {
        match self.named(bare(expr))? {
            Some(Named::Property(property)) => Ok(Some(property)),
            _ => Ok(None),
        }
    }

    /// What a name, or a property in brackets, stands for; none: it is neither.
    fn named(&self, expr: &Expr) -> Result<Option<Named>, Problem> {
        let Some(inside) = &self.inside else { return Ok(None) };
        match expr {
            Expr::Identifier(name) if inside.parameters.contains(&name.value) => {
                Ok(Some(Named::Column(ident(name))))
            }
            Expr::Identifier(name) => inside.name(&[&name.value]).map(Some),
            Expr::CompoundIdentifier(names) => {
                let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
                inside.name(&names).map(Some)
            }
            Expr::CompoundFieldAccess { root, access_chain } => match path(root, access_chain) {
                Some(names) => inside.name(&names).map(Some),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

/// The arguments of a function; none stands for `*`.
fn plain(list: &FunctionArgumentList) -> Result<Vec<Option<&Expr>>, Problem> {
    none(!list.clauses.is_empty(), "this form of function")?;
    let each = list.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(Some(expr)),
        FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => Ok(None),
        _ => Err(refused("a named argument")),
    });
    each.collect()
}

/// `properties['a b']`, `person.properties['a b']`: the parts of the name.
fn path<'e>(root: &'e Expr, chain: &'e [AccessExpr]) -> Option<Vec<&'e str>> {
    let mut names: Vec<&str> = match root {
        Expr::Identifier(name) => vec![&name.value],
        Expr::CompoundIdentifier(names) => names.iter().map(|name| name.value.as_str()).collect(),
        _ => return None,
    };
    let first = names.first()?;
    if !matches!(*first, "properties" | "person" | "groups") && number_of(first).is_none() {
        return None;
    }
    for access in chain {
        match access {
            AccessExpr::Dot(Expr::Identifier(name)) => names.push(&name.value),
            AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) }) => match &value.value {
                Value::SingleQuotedString(text) => names.push(text),
                _ => return None,
            },
            _ => return None,
        }
    }
    Some(names)
}

impl Inside<'_> {
    /// `group_0.key`, `group_0.properties.plan`: of the event's group, what stands behind its type.
    fn of_group(&self, meant: Meant<'_>, rest: &[&str], names: &[&str]) -> Result<Named, Problem> {
        meant.check("query")?;
        let actors = self.ground.actors;
        Ok(Named::Property(match rest {
            ["key"] => groups::key(meant, actors.group_types()),
            ["properties", key] => {
                filter::check_key("query", key)?;
                actors.group_property(meant, key)
            }
            _ => return Err(unknown(names)),
        }))
    }

    fn name(&self, names: &[&str]) -> Result<Named, Problem> {
        let ground = self.ground;
        let of = |kind, key: &str| filter::property(kind, key, "query", ground).map(Named::Property);
        let instant = |column: &'static str| {
            let millis = Sql::new("fromUnixTimestamp64Milli(bitOr(toUnixTimestamp64Milli(").push(column);
            millis.push("), 0), ").arg(ground.calendar.zone.name()).push(")")
        };
        Ok(Named::Column(match names {
            ["properties", key] => return of(PropertyKind::Event, key),
            ["person", "properties", key] => return of(PropertyKind::Person, key),
            [group] if group.strip_prefix("$group_").is_some_and(is_digit) => {
                let number = group.trim_start_matches("$group_");
                return of(PropertyKind::Group, number);
            }
            [group, rest @ ..] if number_of(group).is_some() => {
                let meant = Meant { index: number_of(group), ..Meant::default() };
                return self.of_group(meant, rest, names);
            }
            ["groups", name, rest @ ..] => {
                return self.of_group(Meant { name: Some(*name), ..Meant::default() }, rest, names);
            }
            ["event" | "event_name"] => Sql::new("toString(event_name)"),
            ["distinct_id"] => Sql::new("distinct_id"),
            ["person_id"] | ["person", "id"] => ground.actors.id(),
            ["timestamp"] => instant("timestamp"),
            ["received_at"] => instant("received_at"),
            ["event_id" | "uuid"] => Sql::new("event_id"),
            ["session_id" | "$session_id"] => session::id(),
            ["source"] => Sql::new("toString(source)"),
            ["customer_id"] => Sql::new("customer_id"),
            ["properties"] => Sql::new("properties"),
            _ => return Err(unknown(names)),
        }))
    }
}

/// The number of `group_0`.
fn number_of(name: &str) -> Option<u8> {
    name.strip_prefix("group_").filter(|number| is_digit(number))?.parse().ok()
}

fn is_digit(text: &str) -> bool {
    matches!(text.as_bytes(), [b'0'..=b'9'])
}

fn unknown(names: &[&str]) -> Problem {
    let shown: String = names.join(".").chars().take(100).collect();
    let near = names.first().and_then(|name| strict::nearest(name, NAMES));
    let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    refused(&format!("the name {shown} (a property is properties.name{near})")).with("valid", NAMES.to_vec())
}
