//! The id of a person: stable, over project, environment and distinct id.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::Scope;

/// A UUID (version 8) that holds the hash of the distinct id that the person is named after (64 bits) and of project and
/// environment (58 bits). It can be taken apart, so a question's people are named without asking anybody, and the id of
/// one scope says nothing in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonId(Uuid);

const SCOPE_BITS: u32 = 58;

impl PersonId {
    /// The person with this acting id in this scope.
    pub fn new(scope: &Scope, actor: u64) -> Self {
        let actor = u128::from(actor);
        let (high, middle, low) = (actor >> 16, (actor >> 4) & 0xfff, actor & 0xf);
        let bits = (high << 80) | (8 << 76) | (middle << 64) | (0b10 << 62) | (low << SCOPE_BITS);
        Self(Uuid::from_u128(bits | u128::from(scope_bits(scope))))
    }

    /// Reads an id; none: no person has such an id.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The acting id; none: it is an id of another scope.
    pub fn actor(self, scope: &Scope) -> Option<u64> {
        let bits = self.0.as_u128();
        let actor = ((bits >> 80) << 16) | (((bits >> 64) & 0xfff) << 4) | ((bits >> SCOPE_BITS) & 0xf);
        let actor = u64::try_from(actor).ok()?;
        (Self::new(scope, actor) == self).then_some(actor)
    }
}

fn scope_bits(scope: &Scope) -> u64 {
    let digest = Sha256::new()
        .chain_update(scope.project.as_str())
        .chain_update([0])
        .chain_update(scope.environment.as_str());
    let bytes: [u8; 32] = digest.finalize().into();
    let first = bytes.iter().take(8).fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
    first >> (64 - SCOPE_BITS)
}

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

impl Serialize for PersonId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_says_who_in_its_own_scope_and_nothing_in_another(actor in any::<u64>()) {
            let (here, there) = (Scope::new("p", "production"), Scope::new("p", "development"));
            let id = PersonId::new(&here, actor);
            prop_assert_eq!(id.actor(&here), Some(actor));
            prop_assert_eq!(id.actor(&there), None);
            prop_assert_eq!(PersonId::parse(&id.to_string()), Some(id));
            prop_assert_eq!(id.0.get_version_num(), 8);
        }
    }
}
