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
        Method, StatusCode,
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

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
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
    let instance = response.request().path().to_owned();
    finish(&mut response, id, origin);
    let response = with_problem(response, id, &instance);
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

fn finish(response: &mut ServiceResponse, id: RequestId, origin: Option<HeaderValue>) {
    let authorised = response.request().extensions().get::<Authorised>().is_some();
    let budget = response.request().extensions().get::<Budget>().copied();
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
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

/// Adds the request's id and path to a problem, and makes one of an error that the framework answered by itself.
fn with_problem(response: ServiceResponse, id: RequestId, instance: &str) -> ServiceResponse {
    let made = response.response().extensions().get::<Problem>().cloned();
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let plain = failed
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|value| value != service::problem::CONTENT_TYPE);
    let problem = match made {
        Some(problem) => problem,
        None if plain => Problem::new(code_of(response.status())),
        None => return response,
    };
    let problem = problem.instance(instance).request_id(id.to_string());
    let mut answer = problem.error_response();
    for name in response.headers().keys() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            answer.headers_mut().remove(name);
        }
    }
    for (name, value) in response.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            answer.headers_mut().append(name.clone(), value.clone());
        }
    }
    response.into_response(answer)
}

fn code_of(status: StatusCode) -> ProblemCode {
    match status.as_u16() {
        404 => ProblemCode::NotFound,
        405 => ProblemCode::MethodNotAllowed,
        413 => ProblemCode::PayloadTooLarge,
        415 => ProblemCode::UnsupportedMediaType,
        503 => ProblemCode::Unavailable,
        500.. => ProblemCode::Internal,
        _ => ProblemCode::InvalidRequest,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_framework_error_becomes_a_problem_and_repeated_headers_stay() {
        let mut plain = HttpResponse::BadGateway();
        plain.append_header((header::SET_COOKIE, "a=1")).append_header((header::SET_COOKIE, "b=2"));
        let response = TestRequest::default().to_srv_response(plain.body("a stack trace"));

        let response = with_problem(response, RequestId::generate(), "/v1/x");

        assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), service::problem::CONTENT_TYPE);
        assert_eq!(response.headers().get_all(header::SET_COOKIE).count(), 2);
        assert_eq!(response.status(), 500);
    }

    #[test]
    fn a_problem_keeps_its_own_headers_once() {
        let problem = Problem::new(ProblemCode::Unavailable).retry_after(std::time::Duration::from_secs(2));
        let response = TestRequest::default().to_srv_response(problem_response(problem));

        let response = with_problem(response, RequestId::generate(), "/v1/x");

        assert_eq!(response.headers().get_all(header::RETRY_AFTER).count(), 1);
    }
}
