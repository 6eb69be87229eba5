//! Who asks: the key of a request becomes a principal.

use std::{pin::Pin, sync::Arc};

use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev::Payload, http::header, web};
use domain::key::ApiKey;
use futures::FutureExt as _;
use protocol::identity::{AUTHENTICATE_PATH, Authenticate, Authenticated, Principal};
use secrecy::SecretString;
use service::{InternalClient, Problem, ProblemCode, Shutdown};

use crate::{
    edge::{self, Authorised},
    failure,
    memory::{Memory, WITHIN},
    service::Gateway,
};

/// Keys remembered at most.
const CAPACITY: u64 = 100_000;

/// A key as it was presented: enough to ask about it, not enough to use it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Presented {
    public_id: String,
    hash: [u8; 32],
}

/// What status said of a key.
#[derive(Clone)]
enum Answer {
    Known(Arc<Principal>),
    Unknown,
    Expired,
}

/// The keys that were seen lately.
pub(crate) struct Keys {
    pepper: SecretString,
    status: InternalClient,
    answers: Memory<Presented, Answer>,
}

impl Keys {
    pub(crate) fn new(pepper: SecretString, status: InternalClient, shutdown: Shutdown) -> Self {
        let lasting = |answer: &Answer| matches!(answer, Answer::Known(_));
        Self { pepper, status, answers: Memory::new(CAPACITY, lasting, shutdown) }
    }

    fn read(&self, text: &str) -> Option<Presented> {
        let key = ApiKey::parse(text.trim()).ok()?;
        Some(Presented { public_id: key.id().to_owned(), hash: key.hash(&self.pepper) })
    }

    /// The principal of a key.
    ///
    /// # Errors
    /// 401 for anything that is no living key; 503 when nobody can tell.
    pub(crate) async fn principal(&self, key: &Presented) -> Result<Arc<Principal>, Problem> {
        let ask = || {
            let status = self.status.clone();
            let question = Authenticate { public_id: key.public_id.clone(), hash: hex::encode(key.hash) };
            async move {
                Ok(match status.post_json(AUTHENTICATE_PATH, &question, WITHIN).await? {
                    Authenticated::Known(principal) => Answer::Known(Arc::new(*principal)),
                    Authenticated::Unknown => Answer::Unknown,
                    Authenticated::Expired => Answer::Expired,
                })
            }
            .boxed()
        };
        match self.answers.get(key.clone(), ask).await.map_err(|error| failure::internal(&error))? {
            Answer::Known(principal) => Ok(principal),
            Answer::Expired => Err(Problem::new(ProblemCode::KeyExpired)),
            Answer::Unknown => Err(unauthorized()),
        }
    }

    /// Whether status said that a key is no more. Silence says nothing.
    pub(crate) async fn is_gone(&self, key: &Presented) -> bool {
        matches!(self.principal(key).await, Err(problem) if problem.status == 401)
    }
}

fn unauthorized() -> Problem {
    Problem::new(ProblemCode::Unauthorized).detail("give a valid API key as `Authorization: Bearer` or `X-API-Key`")
}

/// Who asks. As an extractor it checks the key, the origin and the rate limit.
#[derive(Clone)]
pub(crate) struct Caller {
    principal: Arc<Principal>,
    /// The key they asked with.
    pub(crate) key: Presented,
}

impl std::ops::Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl FromRequest for Caller {
    type Error = actix_web::error::InternalError<Problem>;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { check(&request).await.map_err(edge::refusal) })
    }
}

/// Checks the key, the origin and the rate limit of a request.
///
/// # Errors
/// 401, 403, 429, or 503 when nobody can tell.
pub(crate) async fn check(request: &HttpRequest) -> Result<Caller, Problem> {
    let gateway = request.app_data::<web::Data<Gateway>>().ok_or(Problem::new(ProblemCode::Internal))?;
    let key = presented(request).and_then(|text| gateway.keys.read(text)).ok_or_else(unauthorized)?;
    let principal = gateway.keys.principal(&key).await?;
    request.extensions_mut().insert(Authorised);
    // An origin that is no text is none of the list.
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !principal.origins.is_empty()
        && !principal.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    {
        return Err(Problem::new(ProblemCode::OriginNotAllowed));
    }
    if let Some((budget, checked)) = gateway.limits.check(&principal) {
        request.extensions_mut().insert(budget);
        checked?;
    }
    Ok(Caller { principal, key })
}

/// The key of a request: `Authorization: Bearer LEKH-..`, else `X-API-Key`. A bearer of another kind is meant for somebody
/// else on the way here.
fn presented(request: &HttpRequest) -> Option<&str> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = header("authorization").and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    bearer.filter(|key| key.starts_with("LEKH-")).or_else(|| header("x-api-key").map(str::trim))
}
