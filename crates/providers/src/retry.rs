//! Whether and when to ask again: a pure decision, the caller brings the dice.

use std::time::Duration;

use crate::ProviderError;

/// What to do after a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Ask again after this time.
    After(Duration),
    /// The provider wants more patience than a slot should have: put the execution aside for this time.
    Park(Duration),
    /// Asking again is useless: try the fallback, or fail.
    No,
}

/// The numbers of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait without a hint.
    pub base: Duration,
    /// The longest wait without a hint, before jitter.
    pub cap: Duration,
    /// Calls in all, the first included.
    pub attempts: u32,
    /// A hint above this parks.
    pub park_above: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            attempts: 4,
            park_above: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// Decides after call number `attempt` (from 0) failed with `error`. `jitter` is uniform in 0..1.
    ///
    /// A hint of the provider is obeyed as it is, never shortened. A parked call does not count against `attempts`
    /// here: whoever parks bounds the patience, by the execution's deadline and by the time since its last finished unit.
    #[must_use]
    pub fn decide(&self, attempt: u32, error: &ProviderError, jitter: f64) -> Retry {
        if !error.retryable() {
            return Retry::No;
        }
        let hint = error.retry_after.filter(|hint| !hint.is_zero());
        if let Some(hint) = hint.filter(|hint| *hint > self.park_above) {
            return Retry::Park(hint);
        }
        if attempt.saturating_add(1) >= self.attempts {
            return Retry::No;
        }
        Retry::After(hint.unwrap_or_else(|| self.backoff(attempt, jitter)))
    }

    fn backoff(&self, attempt: u32, jitter: f64) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(attempt));
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
        doubled.min(self.cap).mul_f64(0.5 + jitter)
    }
}

/// Decides with the default policy; see [`RetryPolicy::decide`].
#[must_use]
pub fn decide(attempt: u32, error: &ProviderError, jitter: f64) -> Retry {
    RetryPolicy::default().decide(attempt, error, jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn error(class: ErrorClass, hint: Option<Duration>) -> ProviderError {
        ProviderError { retry_after: hint, ..ProviderError::new(class, "x", "") }
    }

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn without_a_hint_the_wait_doubles_around_the_middle() {
        let failed = error(ErrorClass::Server, None);

        assert_eq!(decide(0, &failed, 0.5), Retry::After(ms(500)));
        assert_eq!(decide(1, &failed, 0.5), Retry::After(ms(1000)));
        assert_eq!(decide(2, &failed, 0.0), Retry::After(ms(1000)));
        assert_eq!(decide(2, &failed, 1.0), Retry::After(ms(3000)));
    }

    #[test]
    fn the_fourth_failure_is_the_last() {
        assert_eq!(decide(3, &error(ErrorClass::Network, None), 0.5), Retry::No);
        assert_eq!(decide(3, &error(ErrorClass::RateLimited, Some(ms(100))), 0.5), Retry::No);
        assert_eq!(decide(u32::MAX, &error(ErrorClass::Network, None), 0.5), Retry::No);
    }

    #[test]
    fn a_hint_is_obeyed_and_above_five_seconds_it_parks() {
        let limited = |hint| error(ErrorClass::RateLimited, Some(hint));

        assert_eq!(decide(0, &limited(ms(1500)), 0.9), Retry::After(ms(1500)));
        assert_eq!(decide(0, &limited(ms(5000)), 0.9), Retry::After(ms(5000)));
        assert_eq!(decide(0, &limited(ms(5001)), 0.9), Retry::Park(ms(5001)));
        assert_eq!(decide(9, &limited(Duration::from_secs(3600)), 0.9), Retry::Park(Duration::from_secs(3600)));
        assert_eq!(decide(0, &limited(Duration::ZERO), 0.5), Retry::After(ms(500)));
    }

    #[test]
    fn what_cannot_get_better_is_not_asked_again() {
        for class in [
            ErrorClass::QuotaExhausted,
            ErrorClass::Auth,
            ErrorClass::NotFound,
            ErrorClass::InvalidRequest,
            ErrorClass::ContextOverflow,
            ErrorClass::ContentFilter,
        ] {
            assert_eq!(decide(0, &error(class, Some(ms(100))), 0.5), Retry::No, "{class}");
        }
    }

    #[test]
    fn the_provider_may_forbid_or_ask_for_a_retry() {
        let forbidden = ProviderError { should_retry: Some(false), ..error(ErrorClass::Server, None) };
        let asked = ProviderError { should_retry: Some(true), ..error(ErrorClass::InvalidRequest, None) };

        assert_eq!(decide(0, &forbidden, 0.5), Retry::No);
        assert_eq!(decide(0, &asked, 0.5), Retry::After(ms(500)));
    }

    #[test]
    fn strange_dice_do_not_break_the_wait() {
        let failed = error(ErrorClass::Server, None);

        assert_eq!(decide(0, &failed, f64::NAN), Retry::After(ms(500)));
        assert_eq!(decide(0, &failed, 7.0), Retry::After(ms(750)));
        let patient = RetryPolicy { attempts: u32::MAX, ..RetryPolicy::default() };
        assert_eq!(patient.decide(40, &failed, 1.0), Retry::After(Duration::from_secs(45)));
    }
}
