//! Two replicas, one leader; and what only a service token opens.

use std::sync::Arc;

use domain::State;
use protocol::report::{Finish, Report, Standing};
use service::{InternalError, Shutdown, SystemClock};
use testkit::wait;

use crate::{
    bench::{Attempt, Bench, FakeExecutor, WITHIN, client, config, post},
    wire::Wire,
};

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
async fn a_partition_that_cannot_be_made_keeps_nobody_from_leading() {
    let database = crate::bench::database().await;
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // A row of today in the default partition: today's own cannot be made any more.
    let row = format!("INSERT INTO events VALUES ('{}', 1, 1, '[]')", domain::ExecutionId::generate().uuid());
    client.batch_execute(&row).await.unwrap();
    let url = database.url();

    let mut bench = Bench::start_at(database, url, None).await;

    bench.submit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_token_nothing_opens() {
    let bench = Bench::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();

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

const NOTHING: serde_json::Value = serde_json::Value::Null;

/// Waits until this replica leads.
async fn leads(url: &str) -> service::InternalClient {
    let client = client(vec![url.to_owned()]);
    wait::until(WITHIN * 3, "this replica leads", async || {
        let asked = post::<_, serde_json::Value>(&client, protocol::operate::INVARIANTS_PATH, &NOTHING);
        asked.await.map_err(|error| error.to_string())
    })
    .await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_drains_alone_takes_reports_until_nothing_is_held() {
    let mut bench = Bench::start().await;
    let (finishing, leaving) = (FakeExecutor::join(&bench).await, FakeExecutor::join(&bench).await);
    let (done, back, queued) = (bench.submit().await, bench.submit().await, bench.submit().await);
    for _ in 0..3 {
        bench.dispatched().await;
    }
    let done = Attempt::of(&finishing.claim(done).await.unwrap());
    let back = Attempt::of(&leaving.claim(back).await.unwrap());

    bench.shutdown.drain.cancel();
    let ended = tokio::spawn({
        let shutdown = bench.shutdown.clone();
        async move { shutdown.wait(WITHIN).await }
    });
    assert_eq!(finishing.report(done.finish()).await.standing, Standing::Over);
    assert!(!ended.is_finished(), "the other one still holds something");
    let report = Report { finish: Some(Finish::GivenBack), ..back.report() };
    assert_eq!(leaving.report(report).await.standing, Standing::Over);

    assert_eq!(ended.await.unwrap(), service::Ended::Drained);
    let rows = bench.psql().await.query("SELECT state, losses FROM executions ORDER BY id", &[]).await.unwrap();
    let rows: Vec<(i16, i16)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let state = |state: State| (state.code(), 0);
    assert_eq!(rows, [state(State::Completed), state(State::Queued), state(State::Queued)]);
    let _ = queued;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_drains_beside_a_standby_hands_over_at_once() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let second = Shutdown::new();
    let standby = status::run(config(&bench.database), bench.broker.clone(), Arc::new(SystemClock), second).unwrap();
    wait::until_true(WITHIN, "a standby", async || {
        let waiting =
            "SELECT FROM pg_stat_activity WHERE application_name = 'lekhika standby' AND datname = current_database()";
        bench.psql().await.query_opt(waiting, &[]).await.unwrap().is_some()
    })
    .await;

    assert_eq!(bench.shutdown.stop(WITHIN).await, service::Ended::Drained);
    bench.client = leads(&standby.url).await;

    let executor = FakeExecutor::rejoin(&bench, &executor).await;
    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Over);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_database_falls_silent_is_replaced_and_stands_by() {
    let database = crate::bench::database().await;
    let wire = Wire::to(&database).await;
    let mut bench = Bench::start_at(database, wire.url(), None).await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let (second, first) = (Shutdown::new(), client(vec![bench.url.clone()]));
    let standby = status::run(config(&bench.database), bench.broker.clone(), Arc::new(SystemClock), second).unwrap();

    // As when its host is frozen: no packet comes, no connection breaks.
    wire.set_silent(true);
    let asking = tokio::spawn(async move {
        let asked: Result<serde_json::Value, _> =
            first.post_json(protocol::operate::EXECUTORS_PATH, &NOTHING, WITHIN * 3).await;
        asked
    });
    // Whoever asked the standby before it leads would be sent to the silent one.
    wait::until(WITHIN * 3, "another leader", async || {
        let url: String = bench.psql().await.query_one("SELECT url FROM leader", &[]).await.unwrap().get(0);
        if url == standby.url { Ok(()) } else { Err(url) }
    })
    .await;
    bench.client = leads(&standby.url).await;
    let executor = FakeExecutor::rejoin(&bench, &executor).await;
    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Over);
    bench.all_is_well().await;
    let refused = asking.await.unwrap().unwrap_err();
    assert_eq!(refused.problem().map(|problem| problem.status), Some(503), "a silent database is an answer: {refused}");

    wire.set_silent(false);
    let both = client(vec![bench.url.clone(), standby.url.clone()]);
    wait::until(WITHIN, "the first one to stand by", async || {
        // It sends clients to the one that leads.
        let asked = post::<_, serde_json::Value>(&both, protocol::operate::INVARIANTS_PATH, &NOTHING);
        asked.await.map_err(|error| error.to_string())
    })
    .await;
}
