//! The parsed question, written anew from what is allowed. Every node that is not named here is refused.

use sqlparser::ast::{
    AccessExpr, Cte, Distinct, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Join, JoinConstraint, JoinOperator, LimitClause,
    OrderByExpr, OrderByKind, OrderBySort, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, SetOperator, SetQuantifier, Statement, Subscript, TableFactor, TableWithJoins, UnaryOperator,
    WindowType,
};
use sqlparser::dialect::ClickHouseDialect;
use sqlparser::parser::Parser;

use super::inside::Inside;
use super::leaves::{called, ident, is_name, literal, operator, plain_wildcard, single, whole};
use super::tables::{cte_name, table};
use super::words;
use crate::event::Scope;
use crate::http::{Problem, strict};
use crate::query::actor::Actors;
use crate::store::Sql;

/// Longest question, in bytes; the parser and this renderer go as deep as it can nest.
const BYTES_MAX: usize = 10_000;
/// Deepest nesting; a chain of operators nests once an operator.
const DEPTH_MAX: usize = 200;

pub(super) type Rendered = Result<Sql, Problem>;

/// What the store is asked instead of `text`.
///
/// # Errors
/// 400: it is no single `SELECT`, or uses what is not allowed.
pub(super) fn render(text: &str, scope: &Scope, actors: &Actors) -> Rendered {
    if text.len() > BYTES_MAX {
        let message = format!("query has {} bytes; it may have {BYTES_MAX}", text.len());
        return Err(Problem::invalid("query", message).with("max", BYTES_MAX));
    }
    let mut statements = Parser::parse_sql(&ClickHouseDialect {}, text)
        .map_err(|error| Problem::invalid("query", format!("query is not SQL: {error}")))?;
    let (Some(Statement::Query(query)), true) = (statements.pop(), statements.is_empty()) else {
        return Err(refused("anything but one SELECT"));
    };
    Renderer { scope, actors, ctes: Vec::new(), depth: 0, inside: None }.query(&query)
}

pub(super) fn refused(what: &str) -> Problem {
    let message = format!(
        "query uses {what}, which is not allowed: it may be one SELECT over events and persons with the listed \
         functions"
    );
    Problem::invalid("query", message).with("given", what)
}

pub(super) struct Renderer<'a> {
    pub(super) scope: &'a Scope,
    pub(super) actors: &'a Actors,
    /// Names that `WITH` has given, those that can be seen here.
    pub(super) ctes: Vec<String>,
    pub(super) depth: usize,
    /// An expression of a question, not a question of its own.
    pub(super) inside: Option<Inside<'a>>,
}

/// Refuses a construct if it is there.
pub(super) fn none(there: bool, what: &str) -> Result<(), Problem> {
    if there { Err(refused(what)) } else { Ok(()) }
}

impl Renderer<'_> {
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Result<T, Problem> {
        if self.depth >= DEPTH_MAX {
            return Err(refused(&format!("more than {DEPTH_MAX} levels of nesting")));
        }
        self.depth += 1;
        let done = inner(self);
        self.depth -= 1;
        done
    }

    fn query(&mut self, query: &Query) -> Rendered {
        none(self.inside.is_some(), "a question within")?;
        self.deeper(|this| {
            let visible = this.ctes.len();
            let rendered = this.query_here(query);
            this.ctes.truncate(visible);
            rendered
        })
    }

    /// Shows the names of a lambda to its body.
    fn with_parameters(&mut self, names: Vec<String>, body: impl FnOnce(&mut Self) -> Rendered) -> Rendered {
        let before = self.inside.as_mut().map(|inside| {
            let before = inside.parameters.len();
            inside.parameters.extend(names);
            before
        });
        let rendered = body(self);
        if let (Some(inside), Some(before)) = (&mut self.inside, before) {
            inside.parameters.truncate(before);
        }
        rendered
    }

    fn query_here(&mut self, query: &Query) -> Rendered {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        none(settings.is_some(), "SETTINGS")?;
        none(format_clause.is_some(), "FORMAT")?;
        none(fetch.is_some() || !locks.is_empty() || for_clause.is_some(), "FETCH or FOR")?;
        none(!pipe_operators.is_empty(), "a pipe")?;
        let mut sql = Sql::default();
        if let Some(with) = with {
            none(with.recursive, "WITH RECURSIVE")?;
            let mut tables = Vec::new();
            for cte in &with.cte_tables {
                tables.push(self.cte(cte)?);
            }
            sql = sql.push("WITH ").join(", ", &tables).push(" ");
        }
        sql = sql.append(&self.set(body)?);
        if let Some(order_by) = order_by {
            none(order_by.interpolate.is_some(), "INTERPOLATE")?;
            let OrderByKind::Expressions(each) = &order_by.kind else { return Err(refused("ORDER BY ALL")) };
            sql = sql.push(" ORDER BY ").append(&self.order(each)?);
        }
        match limit_clause {
            None => Ok(sql),
            Some(limit) => Ok(sql.append(&self.limit(limit)?)),
        }
    }

    /// A name that `WITH` gives gets a prefix, so that it can never stand for a table of the store.
    fn cte(&mut self, cte: &Cte) -> Rendered {
        let Cte { alias, query, from, materialized, .. } = cte;
        none(from.is_some() || materialized.is_some() || !alias.columns.is_empty(), "this form of WITH")?;
        let name = alias.name.value.clone();
        none(table(&name).is_some(), "WITH that takes the name of a table")?;
        let sql = Sql::default().name(&cte_name(&name)).push(" AS (").append(&self.query(query)?).push(")");
        // From here on, not within itself.
        self.ctes.push(name);
        Ok(sql)
    }

    fn set(&mut self, body: &SetExpr) -> Rendered {
        self.deeper(|this| match body {
            SetExpr::Select(select) => this.select(select),
            SetExpr::Query(query) => Ok(Sql::new("(").append(&this.query(query)?).push(")")),
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let between = match (op, set_quantifier) {
                    (SetOperator::Union, SetQuantifier::All) => " UNION ALL ",
                    (SetOperator::Union, SetQuantifier::Distinct) => " UNION DISTINCT ",
                    (SetOperator::Intersect, SetQuantifier::None) => " INTERSECT ",
                    (SetOperator::Except, SetQuantifier::None) => " EXCEPT ",
                    _ => return Err(refused("this set operation (UNION takes ALL or DISTINCT)")),
                };
                Ok(this.set(left)?.push(between).append(&this.set(right)?))
            }
            _ => Err(refused("VALUES or TABLE")),
        })
    }

    fn select(&mut self, select: &Select) -> Rendered {
        let odd = select.select_modifiers.is_some()
            || !select.optimizer_hints.is_empty()
            || select.top.is_some()
            || select.exclude.is_some()
            || select.into.is_some()
            || !select.lateral_views.is_empty()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || !select.named_window.is_empty()
            || select.value_table_mode.is_some();
        none(odd, "this form of SELECT")?;
        none(select.prewhere.is_some(), "PREWHERE")?;
        none(select.qualify.is_some(), "QUALIFY")?;
        let distinct = match &select.distinct {
            None | Some(Distinct::All) => Sql::new("SELECT "),
            Some(Distinct::Distinct) => Sql::new("SELECT DISTINCT "),
            Some(Distinct::On(_)) => return Err(refused("DISTINCT ON")),
        };
        let items = each(&select.projection, |item| self.item(item))?;
        let mut sql = distinct.join(", ", &items);
        if !select.from.is_empty() {
            let tables = each(&select.from, |table| self.tables(table))?;
            sql = sql.push(" FROM ").join(", ", &tables);
        }
        if let Some(condition) = &select.selection {
            sql = sql.push(" WHERE ").append(&self.expr(condition)?);
        }
        let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else {
            return Err(refused("GROUP BY ALL"));
        };
        none(!modifiers.is_empty(), "GROUP BY WITH")?;
        if !keys.is_empty() {
            let keys = each(keys, |key| self.expr(key))?;
            sql = sql.push(" GROUP BY ").join(", ", &keys);
        }
        if let Some(condition) = &select.having {
            sql = sql.push(" HAVING ").append(&self.expr(condition)?);
        }
        Ok(sql)
    }

    fn item(&mut self, item: &SelectItem) -> Rendered {
        match item {
            SelectItem::UnnamedExpr(expr) => self.expr(expr),
            SelectItem::ExprWithAlias { expr, alias } => {
                Ok(self.expr(expr)?.push(" AS ").append(&ident(alias)))
            }
            SelectItem::Wildcard(options) => {
                plain_wildcard(options)?;
                Ok(Sql::new("*"))
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                plain_wildcard(options)?;
                Ok(ident(single(name)?).push(".*"))
            }
            _ => Err(refused("this form of column")),
        }
    }

    fn tables(&mut self, tables: &TableWithJoins) -> Rendered {
        let mut sql = self.table(&tables.relation)?;
        for join in &tables.joins {
            sql = sql.append(&self.join(join)?);
        }
        Ok(sql)
    }

    fn join(&mut self, join: &Join) -> Rendered {
        none(join.global, "GLOBAL JOIN")?;
        let (words, constraint) = match &join.join_operator {
            JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => (" INNER JOIN ", constraint),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                (" LEFT JOIN ", constraint)
            }
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
                (" RIGHT JOIN ", constraint)
            }
            JoinOperator::FullOuter(constraint) => (" FULL JOIN ", constraint),
            JoinOperator::CrossJoin(constraint) => (" CROSS JOIN ", constraint),
            _ => return Err(refused("this form of JOIN")),
        };
        let sql = Sql::new(words).append(&self.table(&join.relation)?);
        match constraint {
            JoinConstraint::On(condition) => Ok(sql.push(" ON ").append(&self.expr(condition)?)),
            JoinConstraint::Using(columns) => {
                let columns = each(columns, |column| Ok(ident(single(column)?)))?;
                Ok(sql.push(" USING (").join(", ", &columns).push(")"))
            }
            JoinConstraint::None => Ok(sql),
            JoinConstraint::Natural => Err(refused("NATURAL JOIN")),
        }
    }

    fn table(&mut self, factor: &TableFactor) -> Rendered {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                none(args.is_some(), "a table function")?;
                let odd = !with_hints.is_empty()
                    || version.is_some()
                    || *with_ordinality
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || sample.is_some()
                    || !index_hints.is_empty();
                none(odd, "this form of table")?;
                let name = &single(name)?.value;
                let rows = if self.ctes.contains(name) {
                    Sql::default().name(&cte_name(name))
                } else {
                    let which = table(name).ok_or_else(|| refused(&format!("the table {name}")))?;
                    Sql::new("(").append(&which(self.scope, self.actors)).push(")")
                };
                // Every read is FINAL; the parser takes the word for a name.
                let named = alias.as_ref().filter(|alias| alias.explicit || alias.name.value != "FINAL");
                let shown = named.map(called).transpose()?;
                Ok(rows.push(" AS ").name(shown.unwrap_or(name)))
            }
            TableFactor::Derived { lateral, subquery, alias, sample } => {
                none(*lateral || sample.is_some(), "LATERAL or SAMPLE")?;
                let sql = Sql::new("(").append(&self.query(subquery)?).push(")");
                match alias {
                    None => Ok(sql),
                    Some(alias) => Ok(sql.push(" AS ").name(called(alias)?)),
                }
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                none(alias.is_some(), "a name for a JOIN")?;
                self.deeper(|this| Ok(Sql::new("(").append(&this.tables(table_with_joins)?).push(")")))
            }
            _ => Err(refused("a table function")),
        }
    }

    fn order(&mut self, by: &[OrderByExpr]) -> Rendered {
        let by = each(by, |by| {
            none(by.with_fill.is_some(), "WITH FILL")?;
            let sql = self.expr(&by.expr)?;
            let sql = match by.options.sort {
                None | Some(OrderBySort::Asc) => sql,
                Some(OrderBySort::Desc) => sql.push(" DESC"),
                Some(OrderBySort::Using(_)) => return Err(refused("ORDER BY USING")),
            };
            Ok(match by.options.nulls_first {
                None => sql,
                Some(true) => sql.push(" NULLS FIRST"),
                Some(false) => sql.push(" NULLS LAST"),
            })
        })?;
        Ok(Sql::default().join(", ", &by))
    }

    fn limit(&mut self, clause: &LimitClause) -> Rendered {
        let (limit, offset, by) = match clause {
            LimitClause::LimitOffset { limit, offset, limit_by } => {
                (limit.as_ref(), offset.as_ref().map(|offset| &offset.value), limit_by.as_slice())
            }
            LimitClause::OffsetCommaLimit { offset, limit } => (Some(limit), Some(offset), &[][..]),
        };
        let mut sql = Sql::default();
        if let Some(limit) = limit {
            sql = sql.push(" LIMIT ").arg(whole(limit)?);
        }
        if let Some(offset) = offset {
            sql = sql.push(" OFFSET ").arg(whole(offset)?);
        }
        if !by.is_empty() {
            let by = each(by, |by| self.expr(by))?;
            sql = sql.push(" BY ").join(", ", &by);
        }
        Ok(sql)
    }

    pub(super) fn expr(&mut self, expr: &Expr) -> Rendered {
        self.deeper(|this| match this.inside {
            Some(_) => this.inside(expr),
            None => this.expr_here(expr),
        })
    }

    pub(super) fn expr_here(&mut self, expr: &Expr) -> Rendered {
        match expr {
            Expr::Identifier(name) => Ok(ident(name)),
            Expr::CompoundIdentifier(names) => {
                let names: Vec<Sql> = names.iter().map(ident).collect();
                Ok(Sql::default().join(".", &names))
            }
            Expr::Value(value) => literal(&value.value),
            Expr::Nested(inner) => Ok(Sql::new("(").append(&self.expr(inner)?).push(")")),
            Expr::Tuple(items) => self.listed("tuple(", items, ")"),
            Expr::Array(array) => self.listed("[", &array.elem, "]"),
            Expr::UnaryOp { op, expr } => {
                let op = match op {
                    UnaryOperator::Minus => "(-",
                    UnaryOperator::Plus => "(",
                    UnaryOperator::Not => "(NOT ",
                    _ => return Err(refused("this operator")),
                };
                Ok(Sql::new(op).append(&self.expr(expr)?).push(")"))
            }
            Expr::BinaryOp { left, op, right } => {
                let op = operator(op).ok_or_else(|| refused(&format!("the operator {op}")))?;
                let left = self.expr(left)?;
                Ok(Sql::new("(").append(&left).push(op).append(&self.expr(right)?).push(")"))
            }
            Expr::Function(function) => self.function(function),
            Expr::Lambda(lambda) => {
                let names = each(&lambda.params, |parameter| {
                    none(parameter.data_type.is_some(), "a typed lambda")?;
                    Ok(ident(&parameter.name))
                })?;
                let names_of = lambda.params.iter().map(|parameter| parameter.name.value.clone()).collect();
                let body = self.with_parameters(names_of, |this| this.expr(&lambda.body))?;
                Ok(Sql::new("(").join(", ", &names).push(") -> ").append(&body))
            }
            Expr::Subquery(query) => Ok(Sql::new("(").append(&self.query(query)?).push(")")),
            Expr::Case { operand, conditions, else_result, .. } => {
                let mut sql = Sql::new("CASE");
                if let Some(operand) = operand {
                    sql = sql.push(" ").append(&self.expr(operand)?);
                }
                for when in conditions {
                    sql = sql.push(" WHEN ").append(&self.expr(&when.condition)?);
                    sql = sql.push(" THEN ").append(&self.expr(&when.result)?);
                }
                if let Some(otherwise) = else_result {
                    sql = sql.push(" ELSE ").append(&self.expr(otherwise)?);
                }
                Ok(sql.push(" END"))
            }
            Expr::Cast { expr, data_type, format, .. } => {
                none(format.is_some(), "CAST … FORMAT")?;
                let kind =
                    words::data_type(data_type).ok_or_else(|| refused(&format!("the type {data_type}")))?;
                Ok(Sql::new("CAST(").append(&self.expr(expr)?).push(" AS ").push(kind).push(")"))
            }
            _ => self.special(expr),
        }
    }

    /// Conditions and functions that have a syntax of their own.
    fn special(&mut self, expr: &Expr) -> Rendered {
        let not = |negated: bool| if negated { " NOT" } else { "" };
        match expr {
            Expr::IsNull(inner) => self.wrapped("isNull(", inner, ")"),
            Expr::IsNotNull(inner) => self.wrapped("isNotNull(", inner, ")"),
            Expr::IsTrue(inner) => self.wrapped("(", inner, " = true)"),
            Expr::IsFalse(inner) => self.wrapped("(", inner, " = false)"),
            Expr::InList { expr, list, negated } => {
                // The store takes a name there for a table.
                none(list.iter().any(is_name), "a name in the list of IN")?;
                let list = self.listed("(", list, ")")?;
                Ok(self.wrapped("(", expr, not(*negated))?.push(" IN ").append(&list).push(")"))
            }
            Expr::InSubquery { expr, subquery, negated } => {
                let rows = self.query(subquery)?;
                Ok(self.wrapped("(", expr, not(*negated))?.push(" IN (").append(&rows).push("))"))
            }
            Expr::Between { expr, negated, low, high } => {
                let sql = self.wrapped("(", expr, not(*negated))?.push(" BETWEEN ").append(&self.expr(low)?);
                Ok(sql.push(" AND ").append(&self.expr(high)?).push(")"))
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char: None } => Ok(self
                .wrapped("(", expr, not(*negated))?
                .push(" LIKE ")
                .append(&self.expr(pattern)?)
                .push(")")),
            Expr::ILike { negated, any: false, expr, pattern, escape_char: None } => Ok(self
                .wrapped("(", expr, not(*negated))?
                .push(" ILIKE ")
                .append(&self.expr(pattern)?)
                .push(")")),
            Expr::Substring { expr, substring_from: Some(from), substring_for, .. } => {
                let sql = self.wrapped("substring(", expr, ", ")?.append(&self.expr(from)?);
                match substring_for {
                    None => Ok(sql.push(")")),
                    Some(length) => Ok(sql.push(", ").append(&self.expr(length)?).push(")")),
                }
            }
            Expr::Trim { trim_where: None, trim_what: None, expr, trim_characters: None } => {
                self.wrapped("trimBoth(", expr, ")")
            }
            Expr::Position { expr, r#in } => {
                let sql = self.wrapped("position(", r#in, ", ")?;
                Ok(sql.append(&self.expr(expr)?).push(")"))
            }
            Expr::Ceil { expr, .. } => self.wrapped("ceil(", expr, ")"),
            Expr::Floor { expr, .. } => self.wrapped("floor(", expr, ")"),
            Expr::Interval(interval) => {
                let unit = interval.leading_field.as_ref().and_then(words::interval);
                let odd = interval.last_field.is_some()
                    || interval.leading_precision.is_some()
                    || interval.fractional_seconds_precision.is_some();
                let unit = unit.filter(|_| !odd).ok_or_else(|| refused("this interval"))?;
                Ok(Sql::new(unit).push("(").arg(whole(&interval.value)?).push(")"))
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                let [AccessExpr::Subscript(Subscript::Index { index })] = access_chain.as_slice() else {
                    return Err(refused("this form of access"));
                };
                Ok(self.wrapped("arrayElement(", root, ", ")?.append(&self.expr(index)?).push(")"))
            }
            other => Err(refused(&other.to_string().chars().take(100).collect::<String>())),
        }
    }

    fn wrapped(&mut self, before: &'static str, inner: &Expr, after: &'static str) -> Rendered {
        Ok(Sql::new(before).append(&self.expr(inner)?).push(after))
    }

    fn listed(&mut self, before: &'static str, items: &[Expr], after: &'static str) -> Rendered {
        let items = each(items, |item| self.expr(item))?;
        Ok(Sql::new(before).join(", ", &items).push(after))
    }

    fn function(&mut self, function: &Function) -> Rendered {
        let Function { name, uses_odbc_syntax, parameters, args, within_group, filter, null_treatment, over } =
            function;
        let odd =
            *uses_odbc_syntax || !within_group.is_empty() || filter.is_some() || null_treatment.is_some();
        none(odd, "this form of function")?;
        let given = &single(name)?.value;
        let known = Self::function_named(given)?;
        let mut sql = Sql::new(known);
        if let FunctionArguments::List(parameters) = parameters {
            sql = sql.append(&self.arguments(parameters)?);
        }
        sql = match args {
            FunctionArguments::None => sql.push("()"),
            FunctionArguments::List(list) => sql.append(&self.arguments(list)?),
            FunctionArguments::Subquery(query) => sql.push("((").append(&self.query(query)?).push("))"),
        };
        match over {
            None => Ok(sql),
            Some(WindowType::NamedWindow(_)) => Err(refused("a named window")),
            Some(WindowType::WindowSpec(window)) => {
                none(window.window_name.is_some() || window.window_frame.is_some(), "a frame of a window")?;
                sql = sql.push(" OVER (");
                if !window.partition_by.is_empty() {
                    let by = each(&window.partition_by, |by| self.expr(by))?;
                    sql = sql.push("PARTITION BY ").join(", ", &by).push(" ");
                }
                if !window.order_by.is_empty() {
                    sql = sql.push("ORDER BY ").append(&self.order(&window.order_by)?);
                }
                Ok(sql.push(")"))
            }
        }
    }

    /// The store's name of a function.
    pub(super) fn function_named(given: &str) -> Result<&'static str, Problem> {
        words::function(given).ok_or_else(|| {
            let near = strict::nearest(given, words::functions());
            let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            refused(&format!("the function {given}{near}"))
        })
    }

    pub(super) fn arguments(&mut self, list: &FunctionArgumentList) -> Rendered {
        none(!list.clauses.is_empty(), "this form of function")?;
        let args = each(&list.args, |arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => self.expr(expr),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => Ok(Sql::new("*")),
            _ => Err(refused("a named argument")),
        })?;
        Self::called_with(list, &args)
    }

    pub(super) fn called_with(list: &FunctionArgumentList, args: &[Sql]) -> Rendered {
        let before = match list.duplicate_treatment {
            Some(DuplicateTreatment::Distinct) => "(DISTINCT ",
            None | Some(DuplicateTreatment::All) => "(",
        };
        Ok(Sql::new(before).join(", ", args).push(")"))
    }
}

fn each<'t, T: 't>(
    items: impl IntoIterator<Item = &'t T>,
    render: impl FnMut(&'t T) -> Rendered,
) -> Result<Vec<Sql>, Problem> {
    items.into_iter().map(render).collect()
}
