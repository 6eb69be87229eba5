//! Identifiers: a prefix and a UUIDv7 (RFC 9562) as 32 lower-case hex digits.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}<32 hex digits>")]
pub struct InvalidId {
    /// The prefix that was wanted, with its underscore.
    pub prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of this kind of id, with its underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id, ordered by the time of its making.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id around a stored UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare UUID, as stored.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Accepts the hexadecimal form with and without hyphens.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = InvalidId { prefix: $prefix };
                let digits = text.strip_prefix($prefix).ok_or_else(|| invalid.clone())?;
                if !matches!(digits.len(), 32 | 36) {
                    return Err(invalid);
                }
                Uuid::try_parse(digits).map(Self).or(Err(invalid))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A named deployment target.
    EngineId = "eng_";
    /// An immutable snapshot of a flow.
    VersionId = "ver_";
    /// A user's own copy of an engine.
    UserEngineId = "uen_";
    /// One run of an engine version.
    ExecutionId = "exec_";
    /// An API key's row (not its public part).
    KeyId = "key_";
    /// A user: the owner of keys and executions.
    UserId = "usr_";
    /// A tier of users.
    LevelId = "lvl_";
    /// One boot of an executor process.
    ExecutorId = "wrk_";
    /// One boot of a gateway process.
    GatewayId = "gwy_";
    /// One boot of a status process.
    StatusId = "sts_";
    /// One provider call, the key of its usage row.
    CallId = "call_";
    /// One try of an executor to claim one execution.
    ClaimId = "clm_";
    /// One HTTP request.
    RequestId = "req_";
}

impl ExecutionId {
    /// The instant this id was made, from the UUIDv7 itself; `None` for an id that is no UUIDv7.
    #[must_use]
    pub fn made_at(self) -> Option<DateTime<Utc>> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_with_and_without_hyphens() {
        let id = ExecutionId::generate();

        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(format!("exec_{}", id.uuid().hyphenated()).parse(), Ok(id));
        assert!("eng_0198c0de4f7a7000a000000000000001".parse::<ExecutionId>().is_err());
        assert!("exec_{0198c0de-4f7a-7000-a000-000000000001}".parse::<ExecutionId>().is_err());
    }
}
