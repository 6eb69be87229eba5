//! What surrounds every request: its id, its trace, CORS, and problems for everything that has no handler.

use actix_web::{
    Error, HttpMessage as _, HttpResponse, ResponseError as _,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use domain::RequestId;
use service::{Problem, ProblemCode};
use tracing::Instrument as _;

use crate::service::Gateway;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ALLOWED_HEADERS: &str =
    "authorization, x-api-key, apikey, content-type, idempotency-key, prefer, last-event-id, traceparent";
const EXPOSED_HEADERS: &str =
    "location, retry-after, ratelimit, ratelimit-policy, x-request-id, idempotency-replayed, link";

/// Gives the request an id and a span, answers preflights, and finishes every response.
pub(crate) async fn surround(
    request: ServiceRequest,
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
    Ok(with_problem(response, id, &instance))
}

fn finish(response: &mut ServiceResponse, id: RequestId, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(origin) = origin {
        // Without credentials; whether the key may be used from this origin is checked with the key.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set(headers, header::VARY, "origin");
        set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS");
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
    let plain = response.status().is_client_error()
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|value| value != service::problem::CONTENT_TYPE);
    let problem = match made {
        Some(problem) => problem,
        None if plain => Problem::new(code_of(response.status())),
        None => return response,
    };
    let problem = problem.instance(instance).request_id(id.to_string());
    let headers = response.headers().clone();
    let mut answer = problem.error_response();
    for (name, value) in headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            answer.headers_mut().insert(name, value);
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
        _ => ProblemCode::InvalidRequest,
    }
}

/// The answer of a handler that failed: a problem which the edge completes.
pub(crate) fn problem_response(problem: Problem) -> HttpResponse {
    let mut response = problem.error_response();
    response.extensions_mut().insert(problem);
    response
}

/// No such path.
pub(crate) async fn not_found() -> HttpResponse {
    problem_response(Problem::new(ProblemCode::NotFound).detail("there is no such path"))
}

/// The path exists, the method does not; `allow` lists those that do.
pub(crate) async fn wrong_method(allow: &'static str) -> HttpResponse {
    let mut response =
        problem_response(Problem::new(ProblemCode::MethodNotAllowed).detail(format!("allowed: {allow}")));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// A resource that answers 405 to every other method.
pub(crate) fn resource(path: &str, allow: &'static str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(move || wrong_method(allow)))
}
