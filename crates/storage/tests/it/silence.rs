//! A server that stands still: it breaks no connection and answers nothing.

use std::time::{Duration, Instant};

use domain::StatusId;
use storage::StorageError;
use tokio::net::TcpListener;

use crate::{
    gate::Gate,
    ledger::{Ledger, now},
};

/// Longer than our patience, shorter than for ever.
const AT_MOST: Duration = Duration::from_secs(25);

fn unavailable<T>(what: &str, result: Result<T, StorageError>) {
    match result {
        Err(StorageError::Unavailable(_)) => {}
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what} succeeded"),
    }
}

#[tokio::test]
async fn nothing_waits_for_it_for_ever() {
    let ledger = Ledger::start().await;
    let attempt = ledger.held().await;
    let ((_one, mut reading), (_two, mut writing)) =
        (Gate::connect(&ledger.url).await, Gate::connect(&ledger.url).await);
    // Connects, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u@{}/d", mute.local_addr().unwrap());
    let pool = storage::pool(&url, 1).unwrap();
    let report = [attempt.completed()];

    let began = Instant::now();
    let all = async {
        tokio::join!(
            storage::executors::list(&mut reading),
            storage::reports::report(&mut writing, ledger.term, attempt.executor, &report, now()),
            storage::leader::stand(&url, StatusId::generate(), "http://x"),
            pool.get(),
        )
    };
    let (read, written, stood, connection) = tokio::time::timeout(AT_MOST, all).await.expect("all of them to give up");

    unavailable("a read", read);
    unavailable("a write", written);
    unavailable("an election", stood);
    assert!(connection.is_err());
    assert!(began.elapsed() > Duration::from_secs(5), "patience comes before giving up");
}

#[tokio::test]
async fn a_leader_that_asks_nothing_any_more_is_replaced_and_a_standby_keeps_its_session() {
    let ledger = Ledger::start().await;
    let sessions = "SELECT count(*), min(pid) FROM pg_stat_activity WHERE application_name = 'lekhika standby' \
                    AND datname = current_database()";
    let who = StatusId::generate();
    let mut candidate = Some(storage::leader::Candidate::connect(&ledger.url).await.unwrap());
    let before: (i64, i32) = {
        let row = ledger.psql().await.query_one(sessions, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };

    // As a frozen process does: its session lives, but nobody uses it.
    let next = testkit::wait::until(Duration::from_secs(15), "the lead", async || {
        match candidate.take().unwrap().stand(who, "http://two").await.unwrap() {
            storage::leader::Election::Won(leadership) => Ok(leadership),
            storage::leader::Election::Lost(again) => {
                candidate = Some(again);
                let row = ledger.psql().await.query_one(sessions, &[]).await.unwrap();
                assert_eq!(before, (row.get(0), row.get(1)), "one session, however often it asks");
                Err("another leads")
            }
        }
    })
    .await;

    assert_eq!(next.term, ledger.term + 1);
    let now_leading = tokio::time::timeout(Duration::from_secs(7), next.lost()).await;
    assert!(now_leading.is_err(), "who asks each second stays");
}
