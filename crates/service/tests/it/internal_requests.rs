//! Requests between roles: tokens, deadlines, the next replica.

use actix_web::{App, HttpResponse, HttpServer, middleware::from_fn, web};
use service::{
    InternalClient, InternalError, Problem, ProblemCode, ServiceAuth, ServiceTokens, SystemClock,
    http_client::{self, ClientConfig},
    internal_client::LEADER_HEADER,
    problem, tokens,
};
use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(5);

fn tokens_of(role: &str) -> Arc<ServiceTokens> {
    let secret = "0123456789abcdef0123456789abcdef".into();
    Arc::new(ServiceTokens::new(&secret, role, Arc::new(SystemClock)).unwrap())
}

/// A replica of `status`: greets the caller by role, is slow, refuses, or points at the leader.
fn replica(leader: Option<String>) -> String {
    let server = HttpServer::new(move || {
        let leader = leader.clone();
        let hello = move |caller: ServiceAuth, body: web::Json<String>| {
            let leader = leader.clone();
            async move {
                match leader {
                    Some(leader) => HttpResponse::MisdirectedRequest().insert_header((LEADER_HEADER, leader)).finish(),
                    None => HttpResponse::Ok().json(format!("{} says {}", caller.role, *body)),
                }
            }
        };
        App::new().app_data(web::Data::from(tokens_of("status"))).app_data(problem::json_config(64)).service(
            web::scope("/internal/v1")
                .wrap(from_fn(tokens::require))
                .route("/hello", web::post().to(hello))
                .route("/traced", web::get().to(traced))
                .route("/slow", web::get().to(std::future::pending::<HttpResponse>))
                .route("/busy", web::get().to(|| async { HttpResponse::from_error(busy()) })),
        )
    })
    .workers(1)
    .disable_signals()
    .bind("127.0.0.1:0")
    .unwrap();
    let address = server.addrs()[0];
    tokio::spawn(server.run());
    format!("http://{address}")
}

async fn traced(request: actix_web::HttpRequest) -> web::Json<Option<String>> {
    web::Json(service::trace::from_request(&request).map(|context| context.traceparent))
}

fn busy() -> Problem {
    Problem::new(ProblemCode::QueueFull).retry_after(Duration::from_secs(3))
}

fn client(base_urls: Vec<String>, audience: &str) -> InternalClient {
    let client = http_client::build(&ClientConfig::reaching("http://127.0.0.1")).unwrap();
    InternalClient::new(client, base_urls, audience, tokens_of("gateway"))
}

fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_request_says_which_role_calls() {
    let client = client(vec![replica(None)], "status");

    let answer: String = client.post_json("/internal/v1/hello", "hi", DEADLINE).await.unwrap();

    assert_eq!(answer, "gateway says hi");
}

#[tokio::test]
async fn a_token_for_another_role_is_401_as_a_problem_document() {
    let client = client(vec![replica(None)], "executor");

    let error = client.post_json::<_, String>("/internal/v1/hello", "hi", DEADLINE).await.unwrap_err();

    assert_eq!(error.problem().unwrap().code, ProblemCode::Unauthorized);
}

#[tokio::test]
async fn a_request_without_a_token_is_401_even_where_there_is_no_route() {
    let base = replica(None);
    let client = http_client::build(&ClientConfig::reaching("http://127.0.0.1")).unwrap();

    for path in ["/internal/v1/hello", "/internal/v1/nothing"] {
        let response = client.post(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.headers()["content-type"], problem::CONTENT_TYPE);
    }
}

#[tokio::test]
async fn the_next_replica_is_asked_when_one_cannot_be_reached() {
    let client = client(vec![nobody(), replica(None)], "status");

    let answer: String = client.post_json("/internal/v1/hello", "hi", DEADLINE).await.unwrap();

    assert_eq!(answer, "gateway says hi");
}

/// Takes connections and never says a word, as a process that is stopped or a machine that hangs.
fn silent() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

#[tokio::test]
async fn a_silent_replica_costs_part_of_one_deadline_and_is_not_preferred_afterwards() {
    let (base, _listener) = silent();
    let client = client(vec![base, replica(None)], "status");
    let deadline = Duration::from_secs(2);

    let first: String = client.post_json("/internal/v1/hello", "hi", deadline).await.unwrap();
    let start = Instant::now();
    let second: String = client.post_json("/internal/v1/hello", "hi", deadline).await.unwrap();

    assert_eq!((first.as_str(), second.as_str()), ("gateway says hi", "gateway says hi"));
    assert!(start.elapsed() < deadline / 4, "the silent one was asked again");
}

#[tokio::test]
async fn a_request_outside_any_span_carries_trace_context_too() {
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let tracer = opentelemetry::trace::TracerProvider::tracer(&provider, "test");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    let _installed = tracing::subscriber::set_default(tracing_subscriber::layer::SubscriberExt::with(
        tracing_subscriber::registry(),
        layer,
    ));
    let client = client(vec![replica(None)], "status");

    let seen: Option<String> = client.get_json("/internal/v1/traced", DEADLINE).await.unwrap();

    assert!(seen.is_some_and(|context| context.starts_with("00-")));
}

#[tokio::test]
async fn a_replica_that_does_not_lead_sends_the_request_to_the_leader() {
    let leader = replica(None);
    let client = client(vec![replica(Some(leader))], "status");

    let answer: String = client.post_json("/internal/v1/hello", "hi", DEADLINE).await.unwrap();

    assert_eq!(answer, "gateway says hi");
}

#[tokio::test]
async fn replicas_that_name_a_dead_leader_end_in_an_error() {
    let client = client(vec![replica(Some(nobody()))], "status");

    let error = client.post_json::<_, String>("/internal/v1/hello", "hi", DEADLINE).await.unwrap_err();

    assert!(matches!(error, InternalError::Unreachable { .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_deadline_covers_the_whole_request() {
    let client = client(vec![replica(None)], "status");
    let start = Instant::now();

    let error = client.get_json::<String>("/internal/v1/slow", Duration::from_millis(100)).await.unwrap_err();

    assert!(matches!(error, InternalError::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_problem_document_arrives_as_it_was_sent() {
    let client = client(vec![replica(None)], "status");

    let error = client.get_json::<String>("/internal/v1/busy", DEADLINE).await.unwrap_err();

    assert_eq!(error.problem(), Some(&busy()));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413() {
    let client = client(vec![replica(None)], "status");

    let error = client.post_json::<_, String>("/internal/v1/hello", &"x".repeat(100), DEADLINE).await.unwrap_err();

    assert_eq!(error.problem().unwrap().code, ProblemCode::PayloadTooLarge);
}
