//! Operators' tokens: JWT (RFC 7519) with HS256 and a role.

use std::pin::Pin;

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use service::{Problem, ProblemCode};

use crate::listener::Admin;

const AUDIENCE: &str = "admin";

/// What an operator may do, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Runs the platform.
    Operator,
    /// Changes engines, users and keys.
    Admin,
    /// Everything.
    Owner,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    sub: String,
    role: Role,
    iat: i64,
    exp: i64,
}

/// Makes a token for an operator.
///
/// # Errors
/// When it cannot be signed.
pub fn issue_token(
    secret: &SecretString,
    subject: &str,
    role: Role,
    now: DateTime<Utc>,
    life: TimeDelta,
) -> Result<String, jsonwebtoken::errors::Error> {
    let claims = Claims {
        aud: AUDIENCE.to_owned(),
        sub: subject.to_owned(),
        role,
        iat: now.timestamp(),
        exp: (now + life).timestamp(),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
}

impl Role {
    /// The word of the token.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// Who operates. As an extractor it answers 401 without a valid token.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) subject: String,
    pub(crate) role: Role,
}

impl Operator {
    /// Lets through who has at least this role.
    pub(crate) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.role < role {
            return Err(Problem::new(ProblemCode::Forbidden).detail("your role does not allow this"));
        }
        Ok(())
    }
}

impl FromRequest for Operator {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let operator = authorize(request);
        Box::pin(async move { operator })
    }
}

fn authorize(request: &HttpRequest) -> Result<Operator, Problem> {
    let refused = || Problem::new(ProblemCode::Unauthorized);
    let admin = request.app_data::<web::Data<Admin>>().ok_or_else(refused)?;
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(refused)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[AUDIENCE]);
    validation.validate_exp = false;
    let key = DecodingKey::from_secret(admin.secret.expose_secret().as_bytes());
    let claims = jsonwebtoken::decode::<Claims>(token.trim(), &key, &validation).map_err(|_invalid| refused())?.claims;
    // Against the process's own clock, as all times are.
    if claims.exp < admin.clock.now().timestamp() {
        return Err(refused());
    }
    Ok(Operator { subject: claims.sub, role: claims.role })
}
