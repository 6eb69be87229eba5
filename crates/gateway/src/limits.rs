//! Requests per minute and user, as the user's level allows. Each gateway process counts for itself.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use domain::UserId;
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use parking_lot::Mutex;
use protocol::identity::Principal;
use service::{Problem, ProblemCode};

/// Users remembered at most; beyond that the list starts anew.
const CAPACITY: usize = 100_000;

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

struct Limited {
    per_minute: NonZeroU32,
    limiter: Arc<Limiter>,
}

/// What is left of a user's requests, as the headers `RateLimit` and `RateLimit-Policy` say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    per_minute: u32,
    left: u32,
}

impl Budget {
    /// The rule: so many in a minute.
    pub(crate) fn policy(self) -> String {
        format!("\"requests\";q={};w=60", self.per_minute)
    }

    /// What is left, and in how many seconds all of it is there again.
    pub(crate) fn state(self) -> String {
        let missing = u64::from(self.per_minute.saturating_sub(self.left));
        format!("\"requests\";r={};t={}", self.left, (missing * 60).div_ceil(u64::from(self.per_minute.max(1))))
    }
}

/// One limiter per user who has a limit.
#[derive(Default)]
pub(crate) struct Limits {
    users: Mutex<HashMap<UserId, Limited>>,
}

impl Limits {
    /// Counts one request; `None` for a user without a limit. The problem is 429 with the time after which the next one is
    /// allowed.
    pub(crate) fn check(&self, principal: &Principal) -> Option<(Budget, Result<(), Problem>)> {
        let per_minute = principal.level.requests_per_minute.and_then(NonZeroU32::new)?;
        let budget = |left| Budget { per_minute: per_minute.get(), left };
        Some(match self.limiter(principal.user_id, per_minute).check() {
            Ok(state) => (budget(state.remaining_burst_capacity()), Ok(())),
            Err(refused) => {
                let wait = refused.wait_time_from(DefaultClock::default().now());
                let problem = Problem::new(ProblemCode::RateLimited)
                    .detail(format!("{per_minute} requests a minute are allowed"))
                    .retry_after(wait.max(Duration::from_millis(1)));
                (budget(0), Err(problem))
            }
        })
    }

    fn limiter(&self, user: UserId, per_minute: NonZeroU32) -> Arc<Limiter> {
        let mut users = self.users.lock();
        if users.len() >= CAPACITY {
            users.clear();
        }
        let make = || {
            let limiter = RateLimiter::direct(Quota::per_minute(per_minute)).with_middleware();
            Limited { per_minute, limiter: Arc::new(limiter) }
        };
        let known = users.entry(user).or_insert_with(make);
        if known.per_minute != per_minute {
            *known = make();
        }
        Arc::clone(&known.limiter)
    }
}
