//! An expression over many events, put together from parts: of each of its aggregates the state is kept by part, and
//! merged for several parts together.

use crate::http::Problem;
use crate::store::Sql;

/// An expression over many events, in the forms that one statement needs.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::query) struct OfEvents {
    /// Over the events themselves.
    pub(in crate::query) whole: Sql,
    /// What is kept of the events of one part, each as [`part`].
    pub(in crate::query) states: Vec<Sql>,
    /// Over the states of one part.
    pub(in crate::query) finished: Sql,
    /// Over the states of several parts.
    pub(in crate::query) merged: Sql,
}

/// What aggregates are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Finished,
    Merged,
}

/// The aggregates of an expression that is being written.
#[derive(Debug)]
pub(super) struct Aggregates {
    form: Form,
    states: Vec<Sql>,
}

/// An aggregate with its arguments.
pub(super) struct Call<'a> {
    pub(super) name: &'static str,
    /// `(0.5)` of a quantile.
    pub(super) parameters: &'a Sql,
    pub(super) is_distinct: bool,
    pub(super) arguments: &'a [Sql],
}

impl OfEvents {
    /// The forms of what `write` makes with aggregates.
    ///
    /// # Errors
    /// Those of `write`.
    pub(super) fn of(
        mut write: impl FnMut(Aggregates) -> Result<(Sql, Aggregates), Problem>,
    ) -> Result<Self, Problem> {
        let mut in_form = |form| write(Aggregates { form, states: Vec::new() });
        let (whole, _) = in_form(Form::Whole)?;
        let (finished, kept) = in_form(Form::Finished)?;
        let (merged, _) = in_form(Form::Merged)?;
        Ok(Self { whole, states: kept.states, finished, merged })
    }

    /// The same with something around each.
    pub(in crate::query) fn map(self, around: impl Fn(&Sql) -> Sql) -> Self {
        let Self { whole, states, finished, merged } = self;
        Self { whole: around(&whole), states, finished: around(&finished), merged: around(&merged) }
    }
}

/// The column of a state.
pub(in crate::query) fn part(place: usize) -> Sql {
    Sql::default().name(&format!("part_{place}_"))
}

impl Aggregates {
    pub(super) fn write(&mut self, call: &Call<'_>) -> Sql {
        let Call { name, parameters, is_distinct, arguments } = *call;
        // What the store makes of `sum(DISTINCT …)`, in a form that takes more.
        let name = Sql::new(name).push(if is_distinct { "Distinct" } else { "" });
        let over = |what: &'static str| Sql::new("").append(&name).push(what).append(parameters).push("(");
        let given = |sql: Sql| sql.join(", ", arguments).push(")");
        if self.form == Form::Whole {
            return given(over(""));
        }
        let state = given(over("State"));
        let place = self.states.iter().position(|known| *known == state).unwrap_or_else(|| {
            self.states.push(state);
            self.states.len() - 1
        });
        match self.form {
            Form::Merged => over("Merge").append(&part(place)).push(")"),
            _ => Sql::new("finalizeAggregation(").append(&part(place)).push(")"),
        }
    }
}
