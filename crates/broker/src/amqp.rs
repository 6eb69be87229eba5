//! RabbitMQ (AMQP 0-9-1) behind the [`Broker`] trait.
//!
//! One connection per broker. `link` keeps it up and tells the others; `publishing`, `consuming` and `listening` use it;
//! `topology` is the list of what exists on the broker.

mod consuming;
mod link;
mod listening;
mod outstanding;
mod publishing;
mod topology;

pub use topology::QueueType;

use crate::{Broker, BrokerError, Consumer, Inbox, Listener, Message, Queue, ReplyTo};
use async_trait::async_trait;
use bytes::Bytes;
use lapin::{options::QueueDeclareOptions, types::FieldTable, uri::AMQPUri};
use link::Link;
use publishing::{Hint, Hints};
use secrecy::{ExposeSecret, SecretString};
use service::{ConfigError, Environment};
use std::{fmt, time::Duration};
use tokio::time::{Instant, timeout_at};
use topology::Topology;

/// Where RabbitMQ is and how we use it.
#[derive(Debug, Clone)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`. Variable `LEKHIKA_AMQP_URL`.
    pub url: SecretString,
    /// Names the connection in RabbitMQ's own tools: the role.
    pub name: String,
    /// Before every queue and exchange. Variable `LEKHIKA_AMQP_PREFIX`, default `lekhika.`. Tests use a random one.
    pub prefix: String,
    /// Of the durable queues. Variable `LEKHIKA_AMQP_QUEUE_TYPE`: `classic` (default) or `quorum`.
    pub queue_type: QueueType,
    /// A peer that is silent for twice as long is dead.
    pub heartbeat: Duration,
}

impl AmqpConfig {
    /// A configuration with defaults.
    pub fn new(url: impl Into<SecretString>, name: &str) -> Self {
        Self {
            url: url.into(),
            name: name.to_owned(),
            prefix: "lekhika.".to_owned(),
            queue_type: QueueType::Classic,
            heartbeat: Duration::from_secs(5),
        }
    }

    /// Reads `LEKHIKA_AMQP_URL`, `LEKHIKA_AMQP_PREFIX` and `LEKHIKA_AMQP_QUEUE_TYPE`.
    ///
    /// # Errors
    /// When one is missing or wrong.
    pub fn from_environment(environment: &Environment, name: &str) -> Result<Self, ConfigError> {
        let url = environment.secret("LEKHIKA_AMQP_URL").and_then(|url| match url.expose_secret().parse::<AMQPUri>() {
            Ok(_) => Ok(url),
            // Not the parser's words: they may quote the password.
            Err(_) => Err(environment.problem("LEKHIKA_AMQP_URL: it has to be amqp://user:password@host:port/vhost")),
        });
        let queue_type = environment.parsed_or("LEKHIKA_AMQP_QUEUE_TYPE", QueueType::Classic);
        let prefix = environment.or("LEKHIKA_AMQP_PREFIX", "lekhika.");
        Ok(Self { prefix, queue_type: queue_type?, ..Self::new(url?, name) })
    }
}

/// Bytes per frame. lapin keeps 32 frames each way per connection: with RabbitMQ's own 128 KiB that would be 8 MiB of every
/// process.
const FRAME_MAX: u32 = 32 << 10;

/// RabbitMQ. Connects in the background and reconnects for as long as it lives.
pub struct AmqpBroker {
    link: Link,
    topology: Topology,
    hints: Hints,
}

impl AmqpBroker {
    /// Starts connecting. RabbitMQ need not be there yet: see [`Broker::ready`].
    ///
    /// # Errors
    /// [`BrokerError::Configuration`] when the URL cannot be read.
    pub fn start(config: &AmqpConfig) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = config.url.expose_secret().parse().map_err(|e: String| BrokerError::Configuration(e))?;
        uri.query.heartbeat = Some(u16::try_from(config.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let topology = Topology::new(&config.prefix, config.queue_type);
        let link = Link::start(uri, config.name.clone(), topology.clone());
        let hints = Hints::start(&link);
        Ok(Self { link, topology, hints })
    }
}

impl Drop for AmqpBroker {
    fn drop(&mut self) {
        self.link.closed.cancel();
    }
}

impl fmt::Debug for AmqpBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpBroker").field("connected", &self.link.is_up()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn publish(&self, queue: Queue, message: Message, deadline: Duration) -> Result<(), BrokerError> {
        let deadline = Instant::now() + deadline;
        let live = self.link.up(deadline).await?;
        publishing::publish(&live, queue, self.topology.queue_name(queue), message, deadline).await
    }

    fn hint(&self, queue: Queue, message: Message) {
        self.hints.send(Hint { exchange: String::new(), routing_key: self.topology.queue_name(queue), message });
    }

    fn consume(&self, queue: Queue, prefetch: u16) -> Consumer {
        consuming::start(&self.link, &self.topology, queue, prefetch.max(1))
    }

    fn announce(&self, topic: &str, body: Bytes) {
        let exchange = self.topology.announcements();
        self.hints.send(Hint { exchange, routing_key: topic.to_owned(), message: Message::transient(body) });
    }

    fn listen(&self, topics: &[String], capacity: usize) -> Listener {
        listening::listen(&self.link, &self.topology, topics, capacity)
    }

    fn inbox(&self, capacity: usize) -> Inbox {
        listening::inbox(&self.link, &self.topology, capacity)
    }

    fn reply(&self, to: &ReplyTo, body: Bytes) {
        let message = Message::transient(body);
        self.hints.send(Hint { exchange: String::new(), routing_key: to.0.clone(), message });
    }

    async fn ready(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.link.up(Instant::now() + deadline).await.map(drop)
    }

    async fn depth(&self, queue: Queue, deadline: Duration) -> Result<u64, BrokerError> {
        let deadline = Instant::now() + deadline;
        let live = self.link.up(deadline).await?;
        let asked = async {
            // A channel of its own: asking for a queue that is missing closes the channel.
            let channel = live.connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let state = channel.queue_declare(self.topology.queue_name(queue).into(), passive, FieldTable::default());
            let count = state.await?.message_count();
            channel.close(200, "done".into()).await?;
            Ok::<_, lapin::Error>(u64::from(count))
        };
        match timeout_at(deadline, asked).await {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(source)) => Err(BrokerError::Unconfirmed { queue, source: Some(source) }),
            Err(_) => Err(BrokerError::Disconnected),
        }
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
