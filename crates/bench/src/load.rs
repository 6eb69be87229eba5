//! A closed loop of clients that submit executions, each over one kept-alive connection.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, StatusCode};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::http::Connection;

/// What is submitted, and where.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// One base URL per gateway; the clients are spread over them.
    pub(crate) urls: Vec<String>,
    /// The API key.
    pub(crate) key: String,
    /// `/v1/engines/<name>/execute`.
    pub(crate) path: String,
    /// The request body.
    pub(crate) body: Bytes,
}

/// When the clients stop, and how they are held back.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// No submission starts after this instant.
    pub(crate) until: Instant,
    /// No more than this many are started.
    pub(crate) most: u64,
    /// Each submission takes one permit and never gives it back.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// Grows with each accepted submission, while the clients run.
    pub(crate) accepted: Arc<AtomicU64>,
}

/// What the clients saw.
#[derive(Debug)]
pub(crate) struct Load {
    /// Answered 202.
    pub(crate) accepted: u64,
    /// Other answers, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// From the first byte sent to the last byte read, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// From the start of the first client to the end of the last.
    pub(crate) wall: Duration,
}

impl Target {
    /// A connection to the gateway of client `number`.
    ///
    /// # Errors
    /// When a URL is unusable.
    pub(crate) fn connect(&self, number: usize) -> anyhow::Result<Connection> {
        let place = number % self.urls.len().max(1);
        Connection::new(self.urls.get(place).context("the platform has no gateway")?, Some(&self.key))
    }
}

impl Bounds {
    /// For `time` from now, as fast as they can.
    pub(crate) fn time(time: Duration) -> Self {
        Self { until: Instant::now() + time, most: u64::MAX, gate: None, accepted: Arc::default() }
    }

    /// Until `most` were submitted, for `time` at most.
    pub(crate) fn count(most: u64, time: Duration) -> Self {
        Self { most, ..Self::time(time) }
    }
}

impl Load {
    /// Accepted submissions per second.
    pub(crate) fn rate(&self) -> f64 {
        self.accepted as f64 / self.wall.as_secs_f64()
    }

    /// A quantile of the latency in milliseconds.
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// `12 x 503, ..`, or nothing.
    pub(crate) fn refusals(&self) -> Option<String> {
        let parts: Vec<String> = self.refused.iter().map(|(status, count)| format!("{count} x {status}")).collect();
        (!parts.is_empty()).then(|| format!("not accepted: {}", parts.join(", ")))
    }
}

/// A histogram of microseconds up to a minute.
///
/// # Errors
/// Never with these bounds.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    histogram.auto(true);
    Ok(histogram)
}

/// Runs `clients` clients within `bounds`.
///
/// # Errors
/// When a connection breaks. A refused submission is counted, not an error.
pub(crate) async fn submit(target: &Target, clients: usize, bounds: &Bounds) -> anyhow::Result<Load> {
    let begin = Instant::now();
    let started = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let (connection, target, bounds) = (target.connect(number)?, target.clone(), bounds.clone());
        let started = Arc::clone(&started);
        tasks.spawn(async move { client(connection, &target, &bounds, &started).await });
    }

    let mut load = Load { accepted: 0, refused: BTreeMap::new(), latency: histogram()?, wall: Duration::ZERO };
    while let Some(part) = tasks.join_next().await {
        let part = part??;
        load.accepted += part.accepted;
        load.latency.add(&part.latency)?;
        for (status, count) in part.refused {
            *load.refused.entry(status).or_default() += count;
        }
    }
    load.wall = begin.elapsed();
    Ok(load)
}

async fn client(
    mut connection: Connection,
    target: &Target,
    bounds: &Bounds,
    started: &AtomicU64,
) -> anyhow::Result<Load> {
    let mut load = Load { accepted: 0, refused: BTreeMap::new(), latency: histogram()?, wall: Duration::ZERO };
    while Instant::now() < bounds.until {
        if let Some(gate) = &bounds.gate {
            match timeout_at(bounds.until, gate.acquire()).await {
                Ok(permit) => permit?.forget(),
                Err(_elapsed) => break,
            }
        }
        if started.fetch_add(1, Ordering::Relaxed) >= bounds.most {
            break;
        }
        let begin = Instant::now();
        let answer = connection.call(Method::POST, &target.path, target.body.clone()).await?;
        load.latency.saturating_record(micros(begin.elapsed()));
        if answer.status == StatusCode::ACCEPTED {
            load.accepted += 1;
            bounds.accepted.fetch_add(1, Ordering::Relaxed);
        } else {
            *load.refused.entry(answer.status.as_u16()).or_default() += 1;
        }
    }
    Ok(load)
}

/// Whole microseconds, at least one: a histogram does not take zero.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
