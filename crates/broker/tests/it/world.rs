//! A broker to which several processes connect.

use async_trait::async_trait;
use broker::{AmqpBroker, AmqpConfig, Broker, BrokerError, Consumer, Delivery, InProcessBroker, Message, Queue};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::timeout};

/// Far more than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How long nothing must happen to count as "nothing happens".
pub(crate) const SILENCE: Duration = Duration::from_millis(150);

#[async_trait]
pub(crate) trait World: Send + Sync {
    /// The broker as another process sees it.
    async fn connect(&self) -> Arc<dyn Broker>;
}

pub(crate) struct InProcess(InProcessBroker);

impl InProcess {
    pub(crate) async fn new() -> Self {
        Self(InProcessBroker::new())
    }
}

#[async_trait]
impl World for InProcess {
    async fn connect(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }
}

pub(crate) struct RabbitMq {
    pub(crate) config: AmqpConfig,
}

impl RabbitMq {
    /// On the shared node, under a prefix of its own.
    pub(crate) async fn new() -> Self {
        Self::at(&testkit::amqp_url().await)
    }

    pub(crate) fn at(url: &str) -> Self {
        let config = AmqpConfig { prefix: testkit::random_prefix(), ..AmqpConfig::new(url, "test") };
        Self { config }
    }

    pub(crate) async fn start(&self) -> Arc<AmqpBroker> {
        let broker = AmqpBroker::start(&self.config).unwrap();
        broker.ready(DEADLINE).await.unwrap();
        Arc::new(broker)
    }
}

#[async_trait]
impl World for RabbitMq {
    async fn connect(&self) -> Arc<dyn Broker> {
        self.start().await
    }
}

/// Publishes in the background: in-process a publish ends only when its consumer has acknowledged.
pub(crate) fn send(broker: &Arc<dyn Broker>, body: &str) -> JoinHandle<Result<(), BrokerError>> {
    let (broker, message) = (Arc::clone(broker), Message::persistent(body.to_owned()));
    tokio::spawn(async move { broker.publish(Queue::Submissions, message, DEADLINE).await })
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(DEADLINE, consumer.next()).await.expect("a delivery").expect("a consumer that goes on")
}

pub(crate) async fn assert_silent(consumer: &mut Consumer) {
    if let Ok(delivery) = timeout(SILENCE, consumer.next()).await {
        panic!("nothing should have arrived, but {delivery:?} did");
    }
}

pub(crate) fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.body).unwrap()
}
