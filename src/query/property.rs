//! A property as expressions.

use crate::store::Sql;

pub(super) struct Property {
    raw: Sql,
    key: Sql,
}

impl Property {
    pub(super) fn new(key: &str) -> Self {
        let key = Sql::new("").arg(key);
        Self { raw: Sql::new("JSONExtractRaw(properties, ").append(&key).push(")"), key }
    }

    pub(super) fn is_set(&self) -> Sql {
        Sql::new("(").append(&self.raw).push(" NOT IN ('', 'null'))")
    }

    /// Text; empty for missing.
    pub(super) fn text(&self) -> Sql {
        Sql::new("multiIf(startsWith(")
            .append(&self.raw)
            .push(", '\"'), JSONExtractString(properties, ")
            .append(&self.key)
            .push("), ")
            .append(&self.raw)
            .push(" = 'null', '', ")
            .append(&self.raw)
            .push(")")
    }

    /// Nullable(Float64).
    pub(super) fn number(&self) -> Sql {
        Sql::new("toFloat64OrNull(").append(&self.text()).push(")")
    }
}
