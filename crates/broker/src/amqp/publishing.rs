//! Publishing: with confirms, and hints that nobody waits for.

use super::link::{Link, Live};
use crate::{BrokerError, Headers, Message, Queue, ReplyTo};
use futures::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable, ShortString},
};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

/// Hints that wait to be written; more are dropped, which hints allow.
const HINT_BUFFER: usize = 8_192;
/// How many hints are written at once.
const HINT_BATCH: usize = 128;
/// Writing takes longer only when the broker does not read: then hints are worthless.
const HINT_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes and waits for the confirm.
pub(super) async fn publish(
    live: &Live,
    queue: Queue,
    name: String,
    message: Message,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.confirmed().ok_or(BrokerError::Disconnected)?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirmed = async {
        let properties = properties(&message);
        let sent = channel.basic_publish("".into(), name.into(), options, &message.body, properties).await;
        sent?.await
    };
    match timeout_at(deadline, confirmed).await {
        Ok(Ok(Confirmation::Ack(None) | Confirmation::NotRequested)) => Ok(()),
        Ok(Ok(Confirmation::Ack(Some(_)))) => {
            // Somebody deleted the queue: a new connection declares it again.
            live.broken.cancel();
            Err(BrokerError::Unroutable(queue))
        }
        Ok(Ok(Confirmation::Nack(_))) => Err(BrokerError::Refused(queue)),
        Ok(Err(source)) => {
            live.broken.cancel();
            Err(BrokerError::Unconfirmed { queue, source: Some(source) })
        }
        Err(_) => Err(BrokerError::Unconfirmed { queue, source: None }),
    }
}

/// Something that is sent without waiting.
pub(super) struct Hint {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) message: Message,
}

/// The way to the task that writes hints. One task, so that they stay in order.
pub(super) struct Hints {
    sender: mpsc::Sender<Hint>,
}

impl Hints {
    pub(super) fn start(link: &Link) -> Self {
        let (sender, receiver) = mpsc::channel(HINT_BUFFER);
        link.spawn(write_hints(link.clone(), receiver));
        Self { sender }
    }

    pub(super) fn send(&self, hint: Hint) {
        if self.sender.try_send(hint).is_err() {
            tracing::debug!("dropped a hint: too many are waiting to be written");
        }
    }
}

async fn write_hints(link: Link, mut receiver: mpsc::Receiver<Hint>) {
    let mut batch = Vec::with_capacity(HINT_BATCH);
    loop {
        let received = tokio::select! {
            received = receiver.recv_many(&mut batch, HINT_BATCH) => received,
            () = link.closed.cancelled() => return,
        };
        if received == 0 {
            return;
        }
        if let Some(live) = link.now() {
            write_batch(&live, batch.drain(..)).await;
        }
        batch.clear();
    }
}

/// `join_all` polls in order and each publish queues its frames in its first poll: the order is kept.
async fn write_batch(live: &Live, batch: impl Iterator<Item = Hint>) {
    let writing = join_all(batch.map(|hint| write(&live.hints, hint)));
    match timeout(HINT_TIMEOUT, writing).await {
        Ok(results) => {
            if let Some(error) = results.into_iter().find_map(Result::err) {
                tracing::debug!(%error, "lost hints");
                live.broken.cancel();
            }
        }
        Err(_) => tracing::debug!("lost hints: the broker does not read"),
    }
}

async fn write(channel: &Channel, hint: Hint) -> lapin::Result<()> {
    let properties = properties(&hint.message);
    let options = BasicPublishOptions::default();
    let Hint { exchange, routing_key, message } = hint;
    let sent = channel.basic_publish(exchange.into(), routing_key.into(), options, &message.body, properties).await?;
    // Resolves at once, as this channel has no confirms; dropping it instead would leave an entry in the channel's list.
    sent.await.map(drop)
}

fn properties(message: &Message) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(if message.persistent { 2 } else { 1 });
    if let Some(id) = message.message_id.as_deref().and_then(|id| ShortString::try_new(id).ok()) {
        properties = properties.with_message_id(id);
    }
    if let Some(ReplyTo(address)) = &message.reply_to
        && let Ok(address) = ShortString::try_new(address.as_str())
    {
        properties = properties.with_reply_to(address);
    }
    if !message.headers.is_empty() {
        properties = properties.with_headers(table(&message.headers));
    }
    properties
}

fn table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        match ShortString::try_new(name.as_str()) {
            Ok(name) => {
                table.insert(name, AMQPValue::LongString(value.as_str().into()));
            }
            Err(_) => tracing::warn!("left out a header whose name is longer than 255 bytes"),
        }
    }
    table
}
