//! A broker to which several processes connect.

use async_trait::async_trait;
use broker::{AmqpBroker, AmqpConfig, Broker, BrokerError, Consumer, Delivery, InProcessBroker, Message, Queue};
use secrecy::{ExposeSecret, SecretString};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How long nothing must happen to count as "nothing happens".
pub(crate) const SILENCE: Duration = Duration::from_millis(150);

#[async_trait]
pub(crate) trait World: Send + Sync {
    /// The broker as another process sees it.
    async fn connect(&self) -> Arc<dyn Broker>;

    /// A process takes a submission and dies with it: nothing is settled, nothing is dropped in order. (Where the process is
    /// the broker only a task of it can die.)
    async fn die_with_a_submission(&self);

    /// Brokers that do not answer: never reached, and connected but silent since. (In one process: nobody takes anything.)
    async fn unresponsive(&self) -> Vec<Arc<dyn Broker>>;
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

    async fn die_with_a_submission(&self) {
        let (took, taken) = oneshot::channel();
        let broker = self.0.clone();
        let task = tokio::spawn(async move {
            let _held = next(&mut broker.consume(Queue::Submissions, 1)).await;
            took.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        taken.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    async fn unresponsive(&self) -> Vec<Arc<dyn Broker>> {
        vec![Arc::new(InProcessBroker::new())]
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

    async fn die_with_a_submission(&self) {
        let line = Line::to(&self.config.url).await;
        let dying = Self { config: AmqpConfig { url: line.url.clone(), ..self.config.clone() } }.start().await;
        let mut consumer = dying.consume(Queue::Submissions, 1);
        // A process that is killed runs no destructor.
        std::mem::forget(next(&mut consumer).await);
        line.cut.cancel();
        std::mem::forget((consumer, dying));
    }

    async fn unresponsive(&self) -> Vec<Arc<dyn Broker>> {
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = AmqpConfig::new(format!("amqp://guest:guest@{}/%2f", deaf.local_addr().unwrap()), "test");
        let never = Arc::new(AmqpBroker::start(&config).unwrap());
        let line = Line::to(&self.config.url).await;
        let silent = Self { config: AmqpConfig { url: line.url.clone(), ..self.config.clone() } }.start().await;
        line.silence.cancel();
        // They live as long as the test's process.
        std::mem::forget((deaf, line));
        vec![never, silent]
    }
}

/// A connection to RabbitMQ that can be cut, or fall silent, without its ends being told.
struct Line {
    url: SecretString,
    cut: CancellationToken,
    silence: CancellationToken,
}

impl Line {
    async fn to(url: &SecretString) -> Self {
        let url = url.expose_secret();
        let (before, rest) = url.split_once('@').unwrap();
        let (target, path) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{before}@{}/{path}", listener.local_addr().unwrap()).into();
        let this = Self { url, cut: CancellationToken::new(), silence: CancellationToken::new() };
        let (target, cut, silence) = (target.to_owned(), this.cut.clone(), this.silence.clone());
        tokio::spawn(async move {
            let accepting = async {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    // Both ends stay open, and nobody passes anything on.
                    () = silence.cancelled() => std::future::pending().await,
                }
            };
            tokio::select! {
                () = accepting => {}
                () = cut.cancelled() => {}
            }
        });
        this
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
