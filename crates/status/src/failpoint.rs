//! Places where a test can end the process at once, as a power cut would: `LEKHIKA_FAILPOINT=intake.after_commit`.

/// The place at which this process dies, if one is configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failpoint(Option<String>);

impl Failpoint {
    /// Dies at the place of this name.
    pub(crate) const fn new(place: Option<String>) -> Self {
        Self(place)
    }

    /// Dies here, if this is the place.
    pub(crate) fn reach(&self, place: &str) {
        if self.0.as_deref() == Some(place) {
            tracing::error!(place, "failpoint: this process ends now");
            std::process::abort();
        }
    }
}
