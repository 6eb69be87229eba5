//! What disk, Postgres, RabbitMQ and loopback HTTP can do by themselves, on the same instances and in the same run.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use lapin::{
    BasicProperties, Channel, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use serde_json::json;

use crate::{
    database,
    http::Connection,
    report::{Line, Report},
    stack::Facts,
};

/// Of messages and rows: about a submission.
const PAYLOAD: usize = 512;
const BATCH: usize = 100;
const PIPELINE: usize = 100;

/// Measures every raw limit for `time` each.
///
/// # Errors
/// When one of the services cannot be reached or refuses.
pub(crate) async fn run(facts: &Facts, folder: &Path, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let file = folder.join("bench-fdatasync");
    let syncs = tokio::task::spawn_blocking(move || fdatasyncs(&file, time)).await??;
    report.add(Line::new("fdatasync", "raw: fdatasync of 8 KiB", syncs, "/s"));
    postgres(&facts.database_url, time, report).await?;
    rabbitmq(&facts.amqp_url, time, report).await?;

    let rate = loopback(&facts.simulator_url, time).await?;
    report.add(Line::new("loopback", "raw: streamed answers of the simulator, 32 connections", rate, "/s"));
    Ok(())
}

fn fdatasyncs(path: &Path, time: Duration) -> anyhow::Result<f64> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).context("making a file")?;
    let block = [7_u8; 8_192];
    let begin = Instant::now();
    let mut count = 0_u32;
    while begin.elapsed() < time {
        // Always the same place, as a database overwrites its recycled log.
        file.write_all_at(&block, 0).context("writing a file")?;
        file.sync_data().context("syncing a file")?;
        count += 1;
    }
    let rate = f64::from(count) / begin.elapsed().as_secs_f64();
    std::fs::remove_file(path).context("removing a file")?;
    Ok(rate)
}

async fn postgres(url: &str, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let owner = database::connect(url).await?;
    owner
        .batch_execute(
            "DROP SCHEMA IF EXISTS bench_raw CASCADE; CREATE SCHEMA bench_raw; \
             CREATE TABLE bench_raw.rows (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), payload text NOT NULL)",
        )
        .await
        .context("making a table")?;

    for (key, clients) in [("commits_1", 1), ("commits_8", 8), ("commits_32", 32)] {
        let rate = inserts(url, clients, 1, time).await?;
        report.add(Line::new(key, format!("raw: Postgres single-row commits, connections: {clients}"), rate, "/s"));
        if clients == 1 {
            report.add(Line::new("commit_ms", "raw: one Postgres commit", 1_000.0 / rate, "ms"));
        }
    }
    let rate = inserts(url, 4, BATCH, time).await? * BATCH as f64;
    report.add(Line::new("batch_rows", "raw: Postgres rows in batches of 100, 4 connections", rate, "rows/s"));

    owner.batch_execute("DROP SCHEMA bench_raw CASCADE").await.context("dropping a table")?;
    Ok(())
}

async fn inserts(url: &str, clients: usize, rows: usize, time: Duration) -> anyhow::Result<f64> {
    let payloads = Arc::new(vec!["x".repeat(PAYLOAD); rows]);
    rate(clients, time, async || {
        let client = database::connect(url).await?;
        let insert = client.prepare("INSERT INTO bench_raw.rows (payload) SELECT unnest($1::text[])").await?;
        let payloads = Arc::clone(&payloads);
        Ok(async move || {
            client.execute(&insert, &[&*payloads]).await.context("inserting rows")?;
            Ok(1)
        })
    })
    .await
}

async fn rabbitmq(url: &str, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let connection =
        lapin::Connection::connect(url, ConnectionProperties::default()).await.context("connecting to RabbitMQ")?;
    let queue = format!("bench.raw.{:08x}", rand::random::<u32>());
    let owner = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    owner.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.context("declaring a queue")?;

    let runs = [
        ("confirms_1", "raw: RabbitMQ publish + confirm, 1 channel", 1, 1),
        ("confirms_32", "raw: RabbitMQ publish + confirm, 32 channels", 32, 1),
        ("confirms_piped", "raw: RabbitMQ publish + confirm, 4 channels x 100 at a time", 4, PIPELINE),
    ];
    for (key, name, channels, window) in runs {
        let rate = publishes(&connection, &queue, (channels, window), time).await?;
        report.add(Line::new(key, name, rate, "/s"));
    }

    owner.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.context("deleting a queue")?;
    connection.close(200, "done".into()).await.context("closing the connection to RabbitMQ")
}

/// On each of `channels`, `window` messages at a time.
async fn publishes(
    connection: &lapin::Connection,
    queue: &str,
    (channels, window): (usize, usize),
    time: Duration,
) -> anyhow::Result<f64> {
    let payload = [7_u8; PAYLOAD];
    rate(channels, time, async || {
        let channel = connection.create_channel().await.context("opening a channel")?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.context("asking for confirms")?;
        let queue = queue.to_owned();
        Ok(async move || {
            try_join_all((0..window).map(|_| publish(&channel, &queue, &payload))).await?;
            Ok(window)
        })
    })
    .await
}

async fn publish(channel: &Channel, queue: &str, payload: &[u8]) -> anyhow::Result<()> {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let confirm =
        channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), payload, persistent).await?;
    anyhow::ensure!(confirm.await?.is_ack(), "RabbitMQ refused a message");
    Ok(())
}

async fn loopback(simulator: &str, time: Duration) -> anyhow::Result<f64> {
    let body = Bytes::from(serde_json::to_vec(&json!({
        "model": "instant", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Say something."}],
    }))?);
    rate(32, time, async || {
        let mut connection = Connection::new(simulator, None)?;
        let body = body.clone();
        Ok(async move || {
            let answer = connection.call(Method::POST, "/v1/chat/completions", body.clone()).await?;
            anyhow::ensure!(answer.status.is_success(), "the simulator answers {}", answer.status);
            Ok(1)
        })
    })
    .await
}

/// How much all clients do per second. They run concurrently in this task; their connections have tasks of their own.
async fn rate<Operation>(
    clients: usize,
    time: Duration,
    open: impl AsyncFn() -> anyhow::Result<Operation>,
) -> anyhow::Result<f64>
where
    Operation: AsyncFnMut() -> anyhow::Result<usize>,
{
    let mut operations = Vec::with_capacity(clients);
    for _ in 0..clients {
        operations.push(open().await?);
    }
    let begin = Instant::now();
    let counts = try_join_all(operations.iter_mut().map(|operation| async move {
        let mut count = 0;
        while begin.elapsed() < time {
            count += operation().await?;
        }
        Ok::<_, anyhow::Error>(count)
    }))
    .await?;
    Ok(counts.iter().sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
}
