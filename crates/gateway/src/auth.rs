//! Who asks: the key of a request becomes a principal. Cached for seconds while status answers, for minutes while it does not.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use domain::key::ApiKey;
use moka::future::Cache;
use protocol::identity::{AUTHENTICATE_PATH, Authenticate, Authenticated, Principal};
use secrecy::SecretString;
use service::{InternalClient, Problem, ProblemCode};

use crate::{edge, service::Gateway};

/// How long an answer is believed while status answers: a revocation reaches every gateway in this time.
const FRESH: Duration = Duration::from_secs(4);
/// How long it is believed while status does not answer.
const STALE: Duration = Duration::from_secs(600);
/// How long an unknown key is not asked for again.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Keys remembered at most.
const CAPACITY: u64 = 100_000;
/// How long status has to answer.
const WITHIN: Duration = Duration::from_secs(2);

type Hash = [u8; 32];

#[derive(Clone)]
struct Known {
    answer: Authenticated,
    at: Instant,
}

/// The keys that were seen lately.
pub(crate) struct Keys {
    pepper: SecretString,
    status: InternalClient,
    known: Cache<Hash, Arc<Known>>,
    asking: Cache<Hash, Arc<Known>>,
}

impl Keys {
    pub(crate) fn new(pepper: SecretString, status: InternalClient) -> Self {
        let known = Cache::builder().max_capacity(CAPACITY).time_to_live(STALE).build();
        // Single flight: those who ask for the same key at once wait for one answer.
        let asking = Cache::builder().max_capacity(CAPACITY).time_to_live(UNKNOWN).build();
        Self { pepper, status, known, asking }
    }

    /// The principal of a key.
    ///
    /// # Errors
    /// 401 for anything that is no living key; 503 when nobody can tell.
    pub(crate) async fn principal(&self, text: &str) -> Result<Arc<Principal>, Problem> {
        let key = ApiKey::parse(text.trim()).map_err(|_malformed| unauthorized())?;
        let hash = key.hash(&self.pepper);
        let known = self.known.get(&hash).await;
        let answer = match known {
            Some(known) if known.at.elapsed() < FRESH => known,
            known => match self.ask(&key, hash).await {
                Ok(answer) => answer,
                Err(error) => known.ok_or_else(|| crate::failure::internal(&error))?,
            },
        };
        match &answer.answer {
            Authenticated::Known(principal) => Ok(Arc::new(Principal::clone(principal))),
            Authenticated::Expired => Err(Problem::new(ProblemCode::KeyExpired)),
            Authenticated::Unknown => Err(unauthorized()),
        }
    }

    async fn ask(&self, key: &ApiKey, hash: Hash) -> Result<Arc<Known>, Arc<service::InternalError>> {
        let question = Authenticate { public_id: key.id().to_owned(), hash: hex::encode(hash) };
        let ask = async {
            let answer: Authenticated = self.status.post_json(AUTHENTICATE_PATH, &question, WITHIN).await?;
            Ok(Arc::new(Known { answer, at: Instant::now() }))
        };
        let answer = self.asking.try_get_with(hash, ask).await?;
        match answer.answer {
            Authenticated::Known(_) => {
                self.known.insert(hash, Arc::clone(&answer)).await;
                // The next question after the fresh time must reach status.
                self.asking.invalidate(&hash).await;
            }
            Authenticated::Unknown | Authenticated::Expired => self.known.invalidate(&hash).await,
        }
        Ok(answer)
    }
}

fn unauthorized() -> Problem {
    Problem::new(ProblemCode::Unauthorized).detail("give a valid API key as `Authorization: Bearer` or `X-API-Key`")
}

/// Who asks. As an extractor it checks the key, the origin and the rate limit.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Arc<Principal>);

impl std::ops::Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.0
    }
}

impl FromRequest for Caller {
    type Error = actix_web::error::InternalError<Problem>;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            check(&request).await.map_err(|problem| {
                let response = edge::problem_response(problem.clone());
                actix_web::error::InternalError::from_response(problem, response)
            })
        })
    }
}

async fn check(request: &HttpRequest) -> Result<Caller, Problem> {
    let gateway = request.app_data::<web::Data<Gateway>>().ok_or(Problem::new(ProblemCode::Internal))?;
    let text = presented(request).ok_or_else(unauthorized)?;
    let principal = gateway.keys.principal(&text).await?;
    if let Some(origin) = request.headers().get(header::ORIGIN).and_then(|value| value.to_str().ok())
        && !principal.origins.is_empty()
        && !principal.origins.iter().any(|allowed| allowed == origin)
    {
        return Err(Problem::new(ProblemCode::OriginNotAllowed));
    }
    gateway.limits.check(&principal)?;
    Ok(Caller(principal))
}

/// The key of a request: `Authorization: Bearer` or `X-API-Key`.
fn presented(request: &HttpRequest) -> Option<String> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = header("authorization") {
        let (scheme, key) = value.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().to_owned());
    }
    header("x-api-key").map(|key| key.trim().to_owned())
}
