//! Who does something, for the audit trail.

use std::sync::Arc;

/// What kind of caller did it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// FlexFlow itself: the first start, the end of a session.
    System,
    /// The holder of a process's operator token: whoever may read its `data_dir`.
    Operator,
    Key,
    Person,
}

impl ActorKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::System, Self::Operator, Self::Key, Self::Person];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Operator => "operator",
            Self::Key => "key",
            Self::Person => "person",
        }
    }
}

/// Who does something. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    pub kind: ActorKind,
    /// The id of the key or person; the kind's name for the others.
    pub id: Arc<str>,
    /// What it is called now: an e-mail address, a key's id.
    pub name: Arc<str>,
}

impl Actor {
    pub fn new(kind: ActorKind, id: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, id: id.into(), name: name.into() }
    }

    /// FlexFlow itself.
    pub fn system() -> Self {
        Self::new(ActorKind::System, "system", "flexflow")
    }

    /// The holder of the operator token.
    pub fn operator() -> Self {
        Self::new(ActorKind::Operator, "operator", "operator")
    }
}
