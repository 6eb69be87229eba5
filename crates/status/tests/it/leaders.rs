//! Two replicas, one leader; and what only a service token opens.

use std::sync::Arc;

use domain::State;
use service::{InternalError, Shutdown, SystemClock};
use testkit::wait;

use crate::bench::{Attempt, Bench, FakeExecutor, WITHIN, client, config, post};

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_with_the_same_queue_and_holds() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let (running, queued) = (bench.submit().await, bench.submit().await);
    bench.dispatched().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(running).await.unwrap());
    let second = Shutdown::new();
    let standby =
        status::run(config(&bench.database), bench.broker.clone(), Arc::new(SystemClock), second.clone()).unwrap();
    let both = client(vec![standby.url.clone(), bench.url.clone()]);
    // The standby sends clients to the leader.
    let _: serde_json::Value = post(&both, protocol::operate::INVARIANTS_PATH, &serde_json::json!({})).await.unwrap();

    // It tells what it knows itself when the place in the queue is not asked for.
    let alone = client(vec![standby.url.clone()]);
    let question = protocol::read::ReadExecution { subject: bench.subject(queued), without_queue: true };
    let found: protocol::read::Found<protocol::read::ExecutionView> =
        post(&alone, protocol::read::EXECUTION_PATH, &question).await.unwrap();
    assert!(matches!(found, protocol::read::Found::Found(view) if view.queue.is_none()));

    bench.shutdown.drain.cancel();
    bench.shutdown.abort.cancel();
    let second_client = client(vec![standby.url.clone()]);
    let nothing = serde_json::json!({});
    wait::until(WITHIN, "the standby leads", async || {
        let asked = post::<_, serde_json::Value>(&second_client, protocol::operate::INVARIANTS_PATH, &nothing);
        asked.await.map_err(|error| error.to_string())
    })
    .await;

    bench.client = second_client;
    let executor = FakeExecutor::rejoin(&bench, &executor).await;
    executor.report(attempt.finish()).await;
    assert_eq!(bench.view(running).await.state, State::Completed);
    assert_eq!(bench.dispatched().await, [queued]);
    assert!(executor.claim(queued).await.is_some());
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_token_nothing_opens() {
    let bench = Bench::start().await;
    let http = reqwest::Client::builder().build().unwrap();

    for path in ["claims", "reports", "renewals", "executions/get", "admin/keys", "session?executor=x"] {
        let url = format!("{}/internal/v1/{path}", bench.url);
        let plain = http.post(&url).json(&serde_json::json!({})).send().await.unwrap();
        assert_eq!(plain.status(), 401, "{path}");
        let wrong = http.post(&url).bearer_auth("x.y.z").json(&serde_json::json!({})).send().await.unwrap();
        assert_eq!(wrong.status(), 401, "{path}");
    }
    assert_eq!(http.get(format!("{}/livez", bench.url)).send().await.unwrap().status(), 200);
    assert_eq!(http.get(format!("{}/readyz", bench.url)).send().await.unwrap().status(), 200);
    let metrics = http.get(format!("{}/metrics", bench.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("lekhika_status_leading 1"), "{metrics}");
    let unknown: Result<serde_json::Value, InternalError> =
        post(&bench.client, "/internal/v1/nothing", &serde_json::json!({})).await;
    assert!(unknown.is_err());
}
