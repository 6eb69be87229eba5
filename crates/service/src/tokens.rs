//! Service tokens: how one role proves to another who it is (JWT, HS256, 60 seconds).

use crate::{
    Clock, Environment, Problem, ProblemCode,
    config::{ConfigError, SECRET_MIN},
};
use actix_web::{
    Error, FromRequest, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header,
    middleware::Next,
    web,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    future::{Ready, ready},
    sync::Arc,
};

/// How long a token is valid, in seconds.
const LIFE: i64 = 60;
/// A cached token with less left than this, in seconds, is replaced.
const RENEW_BEFORE: i64 = 20;
/// How far the clocks of two machines may differ, in seconds.
const LEEWAY: i64 = 5;
/// The variable that holds the secret.
pub const SECRET_VARIABLE: &str = "LEKHIKA_SERVICE_SECRET";

/// Signs for one role and verifies what is meant for it.
pub struct ServiceTokens {
    role: String,
    sign: EncodingKey,
    verify: DecodingKey,
    validation: Validation,
    clock: Arc<dyn Clock>,
    /// By audience; as many entries as there are roles.
    cached: Mutex<HashMap<String, Cached>>,
}

struct Cached {
    token: Arc<str>,
    expires: i64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    iat: i64,
    exp: i64,
}

/// Why there is no token, or why one is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Fewer than 32 bytes can be guessed.
    #[error("LEKHIKA_SERVICE_SECRET has {0} bytes, it needs at least 32")]
    SecretTooShort(usize),
    /// The signer failed.
    #[error("sign a service token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// Wrong signature, audience or form.
    #[error("verify a service token")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Its 60 seconds have passed, or have not begun.
    #[error("verify a service token: it has expired")]
    Expired,
}

impl ServiceTokens {
    /// Tokens of the role that runs here, such as `gateway`.
    ///
    /// # Errors
    /// [`TokenError::SecretTooShort`].
    pub fn new(secret: &SecretString, role: &str, clock: Arc<dyn Clock>) -> Result<Self, TokenError> {
        let secret = secret.expose_secret().as_bytes();
        if secret.len() < SECRET_MIN {
            return Err(TokenError::SecretTooShort(secret.len()));
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[role]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        // Expiry is checked below against our own clock.
        validation.validate_exp = false;
        Ok(Self {
            role: role.to_owned(),
            sign: EncodingKey::from_secret(secret),
            verify: DecodingKey::from_secret(secret),
            validation,
            clock,
            cached: Mutex::default(),
        })
    }

    /// Reads `LEKHIKA_SERVICE_SECRET`.
    ///
    /// # Errors
    /// When it is missing or too short.
    pub fn from_environment(env: &Environment, role: &str, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        let secret = env.long_secret(SECRET_VARIABLE)?;
        Self::new(&secret, role, clock).map_err(|e| env.problem(e.to_string()))
    }

    /// A token for calling `audience`: the cached one, until less than 20 s of its life are left.
    ///
    /// # Errors
    /// [`TokenError::Sign`].
    pub fn token_for(&self, audience: &str) -> Result<Arc<str>, TokenError> {
        let now = self.clock.now().timestamp();
        let mut cached = self.cached.lock();
        if let Some(hit) = cached.get(audience).filter(|c| c.expires - now > RENEW_BEFORE && c.expires - now <= LIFE) {
            return Ok(Arc::clone(&hit.token));
        }
        let expires = now + LIFE;
        let claims = Claims { iss: self.role.clone(), aud: audience.to_owned(), iat: now, exp: expires };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign);
        let token = Arc::<str>::from(token.map_err(TokenError::Sign)?);
        cached.insert(audience.to_owned(), Cached { token: Arc::clone(&token), expires });
        Ok(token)
    }

    /// The role that calls, if the token is meant for us and valid now.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], [`TokenError::Expired`].
    pub fn verify(&self, token: &str) -> Result<ServiceAuth, TokenError> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verify, &self.validation);
        let claims = claims.map_err(TokenError::Invalid)?.claims;
        let now = self.clock.now().timestamp();
        if claims.exp + LEEWAY < now || claims.iat - LEEWAY > now || claims.exp - claims.iat > LIFE {
            return Err(TokenError::Expired);
        }
        Ok(ServiceAuth { role: claims.iss })
    }

    /// Verifies the `Authorization` header of a request.
    ///
    /// # Errors
    /// A 401 problem, which does not say what was wrong.
    pub fn authorize(&self, request: &HttpRequest) -> Result<ServiceAuth, Problem> {
        let refused = || Problem::new(ProblemCode::Unauthorized).instance(request.path());
        let value = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = value.and_then(|v| v.strip_prefix("Bearer ")).ok_or_else(refused)?;
        self.verify(token.trim()).map_err(|error| {
            tracing::debug!(%error, path = request.path(), "refused an internal request");
            refused()
        })
    }
}

impl fmt::Debug for ServiceTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTokens").field("role", &self.role).finish_non_exhaustive()
    }
}

/// The role that calls. As an extractor it needs `web::Data<ServiceTokens>` (from an `Arc`) in the application, and
/// answers 401 without a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAuth {
    /// `gateway`, `executor`, ...
    pub role: String,
}

impl FromRequest for ServiceAuth {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        if let Some(known) = request.extensions().get::<Self>() {
            return ready(Ok(known.clone()));
        }
        ready(authorize(request))
    }
}

/// Middleware for a whole scope: `.wrap(from_fn(service::tokens::require))`. Nothing inside is reached without a valid
/// token.
///
/// # Errors
/// A 401 problem.
pub async fn require(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    match authorize(request.request()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            Ok(next.call(request).await?.map_into_boxed_body())
        }
        Err(problem) => Ok(request.error_response(problem)),
    }
}

fn authorize(request: &HttpRequest) -> Result<ServiceAuth, Problem> {
    let Some(tokens) = request.app_data::<web::Data<ServiceTokens>>() else {
        tracing::error!(path = request.path(), "this listener has no ServiceTokens: every request is refused");
        return Err(Problem::new(ProblemCode::Unauthorized).instance(request.path()));
    };
    tokens.authorize(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakeClock;
    use chrono::{DateTime, TimeDelta};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn tokens(role: &str, clock: &Arc<FakeClock>) -> ServiceTokens {
        ServiceTokens::new(&SECRET.into(), role, Arc::clone(clock) as Arc<dyn Clock>).unwrap()
    }

    fn clock() -> Arc<FakeClock> {
        Arc::new(FakeClock::at(DateTime::from_timestamp(1_790_000_000, 0).unwrap()))
    }

    #[test]
    fn a_token_names_the_caller_to_the_role_it_is_meant_for_only() {
        let clock = clock();
        let token = tokens("gateway", &clock).token_for("status").unwrap();

        assert_eq!(tokens("status", &clock).verify(&token).unwrap().role, "gateway");
        assert!(matches!(tokens("executor", &clock).verify(&token), Err(TokenError::Invalid(_))));
    }

    #[test]
    fn a_token_expires_after_a_minute_and_the_signer_renews_it_before() {
        let clock = clock();
        let (gateway, status) = (tokens("gateway", &clock), tokens("status", &clock));
        let first = gateway.token_for("status").unwrap();

        clock.advance(TimeDelta::seconds(39));
        assert_eq!(gateway.token_for("status").unwrap(), first);
        clock.advance(TimeDelta::seconds(2));
        let second = gateway.token_for("status").unwrap();
        assert_ne!(second, first);
        clock.advance(TimeDelta::seconds(25));

        assert!(matches!(status.verify(&first), Err(TokenError::Expired)));
        assert!(status.verify(&second).is_ok());
    }

    #[test]
    fn another_secret_is_refused() {
        let clock = clock();
        let other = ServiceTokens::new(&SECRET.to_uppercase().into(), "gateway", Arc::clone(&clock) as _).unwrap();

        let token = other.token_for("status").unwrap();

        assert!(matches!(tokens("status", &clock).verify(&token), Err(TokenError::Invalid(_))));
    }

    #[test]
    fn a_short_secret_names_its_variable() {
        let env = Environment::of([(SECRET_VARIABLE, "short")]);

        let error = ServiceTokens::from_environment(&env, "status", clock()).unwrap_err();

        assert_eq!(error.to_string(), "LEKHIKA_SERVICE_SECRET has 5 bytes, it needs at least 32");
    }
}
