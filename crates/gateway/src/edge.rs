//! What surrounds every request: its id, its trace, CORS, HEAD, and problems for everything that has no handler.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    Error, HttpMessage as _, HttpResponse, ResponseError as _,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use bytes::Bytes;
use domain::RequestId;
use service::{Problem, ProblemCode};
use tracing::Instrument as _;

use crate::{limits::Budget, service::Gateway};

const ALLOWED_HEADERS: &str = "authorization, x-api-key, apikey, content-type, idempotency-key, if-none-match, prefer, \
                               last-event-id, traceparent";
const EXPOSED_HEADERS: &str = "location, retry-after, ratelimit, ratelimit-policy, x-request-id, idempotency-replayed, link, etag, \
                               preference-applied, deprecation, content-disposition";

/// The mark of a request whose key was right: its answer is nobody else's.
pub(crate) struct Authorised;

/// Gives the request an id and a span, answers preflights, and finishes every response.
pub(crate) async fn surround(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = RequestId::generate();
    request.extensions_mut().insert(id);
    let route = request.match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let span = tracing::info_span!("request", otel.kind = "server", request.id = %id, http.route = %route, http.method = %request.method());
    if let Some(parent) = service::trace::from_request(request.request()) {
        service::trace::set_parent(&span, &parent);
    }
    let gateway = request.app_data::<web::Data<Gateway>>().cloned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_head = request.method() == Method::HEAD;
    if is_head {
        // The answer to HEAD is that to GET without its body.
        request.head_mut().method = Method::GET;
    }
    let mut response = if request.method() == Method::OPTIONS && origin.is_some() {
        request.into_response(HttpResponse::NoContent().finish())
    } else {
        match next.call(request).instrument(span).await {
            Ok(response) => response.map_into_boxed_body(),
            Err(error) => return Err(error),
        }
    };
    if let Some(gateway) = gateway {
        gateway.metrics.answered(&route, response.status().as_u16());
    }
    finish(&mut response, origin);
    let response = service::edge::complete(response, &id.to_string());
    Ok(if is_head { response.map_body(|_, body| BoxBody::new(Absent(body.size()))) } else { response })
}

/// The body of an answer to HEAD: its size and nothing else.
struct Absent(BodySize);

impl MessageBody for Absent {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        match self.0 {
            BodySize::Sized(size) => BodySize::Sized(size),
            BodySize::None | BodySize::Stream => BodySize::None,
        }
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

fn finish(response: &mut ServiceResponse, origin: Option<HeaderValue>) {
    let authorised = response.request().extensions().get::<Authorised>().is_some();
    let budget = response.request().extensions().get::<Budget>().copied();
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let headers = response.headers_mut();
    if let Some(budget) = budget {
        for (name, value) in [("ratelimit-policy", budget.policy()), ("ratelimit", budget.state())] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
    if (authorised || failed) && !headers.contains_key(header::CACHE_CONTROL) {
        set(headers, header::CACHE_CONTROL, "no-store");
    }
    // Whether or not there was one: a cache must not give one origin the answer to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        // Without credentials; whether the key may be used from this origin is checked with the key.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, OPTIONS");
        set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        set(headers, header::ACCESS_CONTROL_MAX_AGE, "600");
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// The answer of a handler that failed: a problem which the edge completes.
pub(crate) fn problem_response(problem: Problem) -> HttpResponse {
    let mut response = problem.error_response();
    response.extensions_mut().insert(problem);
    response
}

/// The error of an extractor that refuses.
pub(crate) fn refusal(problem: Problem) -> InternalError<Problem> {
    let response = problem_response(problem.clone());
    InternalError::from_response(problem, response)
}

/// No such path.
pub(crate) async fn not_found() -> HttpResponse {
    problem_response(Problem::new(ProblemCode::NotFound).detail("there is no such path"))
}

/// The path exists, the method does not; `allow` lists those that do.
pub(crate) fn wrong_method(allow: &str) -> HttpResponse {
    let mut response =
        problem_response(Problem::new(ProblemCode::MethodNotAllowed).detail(format!("allowed: {allow}")));
    if let Ok(value) = HeaderValue::try_from(allow) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}
