//! The internal listener.

use service::{Readiness, Shutdown, internal_http::HealthListener, metrics};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

async fn start(readiness: Readiness) -> (String, Shutdown) {
    let shutdown = Shutdown::new();
    let address = "127.0.0.1:0".parse().unwrap();
    let bound = HealthListener::start(address, metrics::registry(), readiness, &shutdown).unwrap();
    (format!("http://{bound}"), shutdown)
}

async fn get(url: String) -> (u16, String) {
    let client =
        service::http_client::build(&service::http_client::ClientConfig::reaching("http://127.0.0.1")).unwrap();
    let response = client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_failing_check_is_named_and_makes_the_process_unready_but_not_dead() {
    let works = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&works);
    let readiness = Readiness::new().check("broker", || async { Ok(()) }).check("postgres", move || {
        let works = seen.load(Ordering::SeqCst);
        async move { if works { Ok(()) } else { Err("connection refused".to_owned()) } }
    });
    let (base, _shutdown) = start(readiness).await;

    let (status, body) = get(format!("{base}/readyz")).await;
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 503);
    assert_eq!(problem["detail"], "not ready: postgres");
    assert_eq!(problem["errors"][0]["detail"], "connection refused");
    assert_eq!(get(format!("{base}/livez")).await.0, 200);

    works.store(true, Ordering::SeqCst);
    assert_eq!(get(format!("{base}/readyz")).await.0, 200);
}

#[tokio::test]
async fn a_draining_process_is_not_ready() {
    let (base, shutdown) = start(Readiness::new()).await;
    assert_eq!(get(format!("{base}/readyz")).await.0, 200);

    shutdown.drain.cancel();

    assert_eq!(get(format!("{base}/readyz")).await.0, 503);
    assert_eq!(get(format!("{base}/livez")).await.0, 200);
}

#[tokio::test]
async fn a_check_that_hangs_fails_at_its_deadline() {
    let readiness = Readiness::new().check("stuck", std::future::pending);

    let failing = readiness.failing(Duration::from_millis(20)).await;

    assert_eq!(failing[0].reason, "no answer within 20 ms");
}

#[tokio::test]
async fn metrics_of_the_process_are_there_from_the_start() {
    let (base, _shutdown) = start(Readiness::new()).await;

    let (status, body) = get(format!("{base}/metrics")).await;

    assert_eq!(status, 200);
    assert!(body.contains("process_resident_memory_bytes"), "{body}");
}
