//! Places where a test can end the process at once, as a power cut would: `LEKHIKA_FAILPOINT=intake.after_commit`.

use service::{ConfigError, Environment};

/// Every place, in the order of an execution's life.
const PLACES: [&str; 10] = [
    "intake.before_commit",
    "intake.after_commit",
    "intake.after_reply",
    "release.before_publish",
    "release.after_publish",
    "claim.after_commit",
    "report.before_commit",
    "report.after_commit",
    "finish.before_commit",
    "finish.after_commit",
];

/// The place at which this process dies, if one is configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failpoint(Option<String>);

impl Failpoint {
    /// Dies at the place of this name.
    pub(crate) const fn new(place: Option<String>) -> Self {
        Self(place)
    }

    /// The place named by `LEKHIKA_FAILPOINT`.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Option<String>, ConfigError> {
        let place = environment.optional("LEKHIKA_FAILPOINT");
        match place.as_deref().filter(|place| !PLACES.contains(place)) {
            Some(unknown) => Err(environment.problem(format!("LEKHIKA_FAILPOINT: there is no place `{unknown}`"))),
            None => Ok(place),
        }
    }

    /// Dies here, if this is the place.
    pub(crate) fn reach(&self, place: &str) {
        debug_assert!(PLACES.contains(&place), "the place is in the list");
        if self.0.as_deref() == Some(place) {
            tracing::error!(place, "failpoint: this process ends now");
            std::process::abort();
        }
    }
}
