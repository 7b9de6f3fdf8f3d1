//! Who an event belongs to, and where new ids come from.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Clock, Timestamp};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the id as it stands; ids come from the metadata database or the configuration, never from a guess.
            pub fn new(id: impl Into<Arc<str>>) -> Self {
                Self(id.into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text_id! {
    /// A project (tenant): text beginning `proj_`, or whatever `auth.static_keys` names.
    ProjectId
}
text_id! {
    /// An environment of a project (`production`, `development`, …): text beginning `env_`.
    EnvironmentId
}

/// The project and environment that a request acts in. Every finder and every query takes one first,
/// so that none can forget it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Scope {
    pub project: ProjectId,
    pub environment: EnvironmentId,
}

impl Scope {
    /// Both ids as they stand.
    pub fn new(project: impl Into<Arc<str>>, environment: impl Into<Arc<str>>) -> Self {
        Self { project: ProjectId::new(project), environment: EnvironmentId::new(environment) }
    }
}

/// Where new ids and random bytes come from; injected so that tests can repeat a run.
pub trait IdSource: Send + Sync + 'static {
    /// A UUIDv7 for something that happened at `at`: sorts by time, then at random.
    fn uuid_v7(&self, at: Timestamp) -> Uuid;

    /// Bytes nobody can guess: keys, tokens, passwords.
    fn fill(&self, bytes: &mut [u8]);
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn uuid_v7(&self, at: Timestamp) -> Uuid {
        let mut random = [0u8; 10];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut random);
        uuid::Builder::from_unix_timestamp_millis(at.as_millis().max(0).unsigned_abs(), &random).into_uuid()
    }

    fn fill(&self, bytes: &mut [u8]) {
        rand::RngCore::fill_bytes(&mut rand::rng(), bytes);
    }
}

impl dyn IdSource {
    /// A UUIDv7 for the present moment of `clock`.
    pub fn uuid_now(&self, clock: &dyn Clock) -> Uuid {
        self.uuid_v7(clock.now())
    }
}
