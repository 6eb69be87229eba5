//! The helpers themselves.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "test code")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use testkit::{TestDatabase, wait};
use tokio_postgres::NoTls;

static MIGRATED: AtomicUsize = AtomicUsize::new(0);

async fn database(key: &str) -> TestDatabase {
    TestDatabase::create(key, async |url| {
        MIGRATED.fetch_add(1, Ordering::SeqCst);
        execute(&url, "CREATE TABLE things ()").await;
        Ok(())
    })
    .await
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own_from_one_template() {
    let key = uuid::Uuid::new_v4().to_string();

    let (first, second) = tokio::join!(database(&key), database(&key));
    execute(&first.url(), "DROP TABLE things").await;
    execute(&second.url(), "SELECT FROM things").await;

    assert_eq!(MIGRATED.load(Ordering::SeqCst), 1);
    assert_ne!(first.name(), second.name());
}

#[tokio::test]
#[should_panic(expected = "for the moon; last seen: Some(\"dark\")")]
async fn waiting_in_vain_says_for_what_and_what_was_seen() {
    wait::until(Duration::from_millis(30), "the moon", async || Err::<(), _>("dark")).await;
}
