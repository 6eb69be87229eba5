//! Following an execution to its end through its event stream, across reconnects.

use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use providers::sse::SseParser;
use serde_json::Value;

use super::{api::ApiClient, display::Display};
use crate::refusal::is_permanent;

/// How often a broken stream is opened again, with a second between, before we give up.
const RECONNECTS: u32 = 60;

/// Shows every event of an execution on `display` until its last one.
///
/// # Errors
/// At once when the stream is refused for good (a wrong id or key), else when it stays away for a minute.
pub async fn follow(client: &ApiClient, id: &str, display: &mut Display) -> anyhow::Result<()> {
    let mut after = 0;
    let mut failures = 0;
    while failures < RECONNECTS {
        match client.events(id, after).await {
            Ok(None) => return Ok(()),
            Ok(Some(stream)) => {
                let before = after;
                if read_stream(stream, &mut after, display).await {
                    return Ok(());
                }
                failures = if after > before { 0 } else { failures + 1 };
            }
            Err(error) if is_permanent(&error) || failures + 1 == RECONNECTS => return Err(error),
            Err(_) => failures += 1,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("the event stream of {id} stays away")
}

/// Reads one connection; whether the last event came.
async fn read_stream(
    stream: impl Stream<Item = reqwest::Result<bytes::Bytes>>,
    after: &mut i64,
    display: &mut Display,
) -> bool {
    let mut stream = std::pin::pin!(stream);
    let mut parser = SseParser::default();
    while let Some(Ok(bytes)) = stream.next().await {
        let Ok(events) = parser.push(&bytes) else { return false };
        for event in events {
            let Ok(data) = serde_json::from_str::<Value>(&event.data).context("an event is JSON") else { continue };
            // `execution.queueUpdated` has no number: it is not part of the log.
            if let Some(sequence) = data.get("sequence").and_then(Value::as_i64) {
                *after = sequence;
            }
            let name = event.event.as_deref().unwrap_or_default();
            display.event(name, &data);
            if domain::event::is_terminal_name(name) {
                return true;
            }
        }
    }
    false
}
