//! Requests per minute and user, as the user's level allows.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use domain::UserId;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};
use parking_lot::Mutex;
use protocol::identity::Principal;
use service::{Problem, ProblemCode};
use std::collections::HashMap;

/// Users remembered at most; beyond that the list starts anew.
const CAPACITY: usize = 100_000;

struct Limited {
    per_minute: NonZeroU32,
    limiter: Arc<DefaultDirectRateLimiter>,
}

/// One limiter per user who has a limit.
#[derive(Default)]
pub(crate) struct Limits {
    users: Mutex<HashMap<UserId, Limited>>,
}

impl Limits {
    /// Counts one request.
    ///
    /// # Errors
    /// 429 with the time after which the next one is allowed.
    pub(crate) fn check(&self, principal: &Principal) -> Result<(), Problem> {
        let Some(per_minute) = principal.level.requests_per_minute.and_then(NonZeroU32::new) else { return Ok(()) };
        let limiter = self.limiter(principal.user_id, per_minute);
        limiter.check().map_err(|refused| {
            let now = governor::clock::DefaultClock::default().now();
            let wait: Duration = refused.wait_time_from(now);
            Problem::new(ProblemCode::RateLimited)
                .detail(format!("{per_minute} requests a minute are allowed"))
                .retry_after(wait.max(Duration::from_millis(1)))
        })
    }

    fn limiter(&self, user: UserId, per_minute: NonZeroU32) -> Arc<DefaultDirectRateLimiter> {
        let mut users = self.users.lock();
        if users.len() >= CAPACITY {
            users.clear();
        }
        let make = || Limited { per_minute, limiter: Arc::new(RateLimiter::direct(Quota::per_minute(per_minute))) };
        let known = users.entry(user).or_insert_with(make);
        if known.per_minute != per_minute {
            *known = make();
        }
        Arc::clone(&known.limiter)
    }
}
