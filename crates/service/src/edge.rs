//! What a listener owes every client: a request id, and a problem document for everything that goes wrong, also for what no
//! handler saw.

use actix_web::{
    HttpResponse, Resource, ResponseError as _,
    dev::ServiceResponse,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};

use crate::{Problem, ProblemCode, problem::CONTENT_TYPE};

/// The header with the id to quote to support.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Finishes a response: the request's id on it, and in its problem document if it is an error. A problem is found in the
/// response's extensions or as its error; what the framework answered by itself becomes one.
#[must_use]
pub fn complete(mut response: ServiceResponse, id: &str) -> ServiceResponse {
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let made = response.response().extensions().get::<Problem>().cloned();
    let made = made.or_else(|| response.response().error()?.as_error::<Problem>().cloned());
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let plain = failed && response.headers().get(header::CONTENT_TYPE).is_none_or(|value| value != CONTENT_TYPE);
    let problem = match made {
        Some(problem) => problem,
        None if plain => Problem::new(code_of(response.status())),
        None => return response,
    };
    let mut answer = problem.instance(response.request().path()).request_id(id).error_response();
    let kept = |name: &HeaderName| name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH;
    for name in response.headers().keys().filter(|name| kept(name)) {
        answer.headers_mut().remove(name);
    }
    for (name, value) in response.headers().iter().filter(|(name, _)| kept(name)) {
        answer.headers_mut().append(name.clone(), value.clone());
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

/// A resource that answers 405 to every method but those in `allow`.
#[must_use]
pub fn resource(path: &str, allow: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move || async move {
        let problem = Problem::new(ProblemCode::MethodNotAllowed).detail(format!("allowed: {allow}"));
        let mut response = HttpResponse::from_error(problem);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        response
    }))
}

/// No such path.
///
/// # Errors
/// Always.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(ProblemCode::NotFound).detail("there is no such path"))
}

/// How a listener reads queries: what cannot be read is a problem document.
#[must_use]
pub fn query_config() -> web::QueryConfig {
    web::QueryConfig::default().error_handler(|error, _| {
        let said = error.to_string();
        let detail = said.strip_prefix("Query deserialize error: ").unwrap_or(&said);
        Problem::new(ProblemCode::InvalidRequest).detail(detail).into()
    })
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

        let response = complete(response, "req_1");

        assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), CONTENT_TYPE);
        assert_eq!(response.headers().get_all(header::SET_COOKIE).count(), 2);
        assert_eq!(response.status(), 500);
    }

    #[test]
    fn a_problem_keeps_its_own_headers_once() {
        let problem = Problem::new(ProblemCode::Unavailable).retry_after(std::time::Duration::from_secs(2));
        let response = TestRequest::default().to_srv_response(HttpResponse::from_error(problem));

        let response = complete(response, "req_1");

        assert_eq!(response.headers().get_all(header::RETRY_AFTER).count(), 1);
        assert_eq!(response.headers().get(REQUEST_ID).unwrap(), "req_1");
    }
}
