//! What exists on the broker: one list, declared again at every connection.
//!
//! Names carry a version: changing an argument of a queue that exists is refused, so a change is a new name. Nothing here
//! uses what RabbitMQ 4 removed: no transient shared queues, no global prefetch, no mirroring policies.

use crate::Queue;
use lapin::{
    Channel, ExchangeKind,
    options::{BasicQosOptions, ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use std::{str::FromStr, time::Duration};

/// After so many deliveries a quorum queue moves a message to the dead letters (RabbitMQ 4 would drop it after 20).
const DELIVERY_LIMIT: i32 = 100;
/// A hint nobody took by then is stale: the leader has sent another.
const DISPATCH_TTL: Duration = Duration::from_secs(10);
/// More hints than that mean that nobody takes them.
const DISPATCH_MAX: i32 = 100_000;
/// Dead letters are for people: more than this nobody reads.
const DEAD_MAX: i32 = 100_000;

/// How RabbitMQ stores the durable queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    Classic,
    /// Replicated in a cluster.
    Quorum,
}

impl FromStr for QueueType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "classic" => Ok(Self::Classic),
            "quorum" => Ok(Self::Quorum),
            _ => Err("expected classic or quorum"),
        }
    }
}

impl QueueType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

/// The names and arguments of everything.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    prefix: String,
    durable: QueueType,
}

impl Topology {
    pub(super) fn new(prefix: &str, durable: QueueType) -> Self {
        Self { prefix: prefix.to_owned(), durable }
    }

    pub(super) fn queue_name(&self, queue: Queue) -> String {
        format!("{}{}.v1", self.prefix, queue.name())
    }

    /// The exchange of announcements: direct, the routing key is the topic.
    pub(super) fn announcements(&self) -> String {
        format!("{}announcements.v1", self.prefix)
    }

    fn arguments(&self, queue: Queue) -> FieldTable {
        let mut arguments = FieldTable::default();
        match queue {
            Queue::Submissions => {
                set_text(&mut arguments, "x-queue-type", self.durable.as_str());
                set_text(&mut arguments, "x-dead-letter-exchange", "");
                set_text(&mut arguments, "x-dead-letter-routing-key", &self.queue_name(Queue::Dead));
                if self.durable == QueueType::Quorum {
                    set_number(&mut arguments, "x-delivery-limit", DELIVERY_LIMIT);
                }
            }
            Queue::Dispatch => {
                set_text(&mut arguments, "x-queue-type", "classic");
                set_number(
                    &mut arguments,
                    "x-message-ttl",
                    i32::try_from(DISPATCH_TTL.as_millis()).unwrap_or(i32::MAX),
                );
                set_number(&mut arguments, "x-max-length", DISPATCH_MAX);
                set_text(&mut arguments, "x-overflow", "drop-head");
            }
            Queue::Dead => {
                set_text(&mut arguments, "x-queue-type", self.durable.as_str());
                set_number(&mut arguments, "x-max-length", DEAD_MAX);
                set_text(&mut arguments, "x-overflow", "drop-head");
            }
        }
        arguments
    }

    pub(super) async fn declare_queue(&self, channel: &Channel, queue: Queue) -> lapin::Result<()> {
        let name = self.queue_name(queue).into();
        channel.queue_declare(name, QueueDeclareOptions::durable(), self.arguments(queue)).await.map(drop)
    }

    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        // The dead letters first: a queue that names a target which is missing loses messages.
        for queue in [Queue::Dead, Queue::Submissions, Queue::Dispatch] {
            self.declare_queue(channel, queue).await?;
        }
        let (kind, options) = exchange();
        channel.exchange_declare(self.announcements().into(), kind, options, FieldTable::default()).await
    }

    /// Declares a queue of this connection only, which keeps the newest `capacity` messages; returns its name.
    pub(super) async fn declare_private(&self, channel: &Channel, capacity: usize) -> lapin::Result<String> {
        let (options, arguments) = private(capacity);
        let name = format!("{}private.{}", self.prefix, uuid::Uuid::new_v4().simple());
        channel.queue_declare(name.clone().into(), options, arguments).await?;
        Ok(name)
    }
}

fn exchange() -> (ExchangeKind, ExchangeDeclareOptions) {
    (ExchangeKind::Direct, ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() })
}

/// A consumer's prefetch is its own: RabbitMQ 4.3 refuses one for a whole channel.
pub(super) fn qos() -> BasicQosOptions {
    BasicQosOptions { global: false }
}

fn private(capacity: usize) -> (QueueDeclareOptions, FieldTable) {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    set_text(&mut arguments, "x-queue-type", "classic");
    set_number(&mut arguments, "x-max-length", i32::try_from(capacity.max(1)).unwrap_or(i32::MAX));
    set_text(&mut arguments, "x-overflow", "drop-head");
    (options, arguments)
}

fn set_text(arguments: &mut FieldTable, name: &str, value: &str) {
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
}

fn set_number(arguments: &mut FieldTable, name: &str, value: i32) {
    arguments.insert(name.into(), AMQPValue::LongInt(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags<const N: usize>(flags: [(&str, bool); N]) -> String {
        flags.into_iter().filter_map(|(name, set)| set.then_some(name)).collect::<Vec<_>>().join(" ")
    }

    fn queue(name: &str, options: QueueDeclareOptions, arguments: &FieldTable) -> String {
        let mut line = format!(
            "{name}: {}",
            flags([
                ("passive", options.passive),
                ("durable", options.durable),
                ("exclusive", options.exclusive),
                ("auto-delete", options.auto_delete),
                ("no-wait", options.nowait),
            ])
        );
        for (name, value) in arguments.inner() {
            line += &match value {
                AMQPValue::LongString(text) => format!(" {name}={:?}", String::from_utf8_lossy(text.as_bytes())),
                AMQPValue::LongInt(number) => format!(" {name}={number}"),
                other => format!(" {name}={other:?}"),
            };
        }
        line
    }

    /// Everything that is declared, as text.
    fn declared(durable: QueueType) -> String {
        let topology = Topology::new("lekhika.", durable);
        let mut lines: Vec<String> = Queue::ALL
            .into_iter()
            .map(|of| queue(&topology.queue_name(of), QueueDeclareOptions::durable(), &topology.arguments(of)))
            .collect();
        let (options, arguments) = private(1_024);
        lines.push(queue("private", options, &arguments));
        let (kind, options) = exchange();
        lines.push(format!(
            "{}: {kind:?} {}",
            topology.announcements(),
            flags([
                ("passive", options.passive),
                ("durable", options.durable),
                ("auto-delete", options.auto_delete),
                ("internal", options.internal),
                ("no-wait", options.nowait),
            ])
        ));
        lines.join("\n")
    }

    // A change here is a change of arguments that RabbitMQ refuses for a queue that exists: give the queue a new version.
    #[test]
    fn on_one_node_this_is_declared() {
        let expected = r#"lekhika.submissions.v1: durable x-dead-letter-exchange="" x-dead-letter-routing-key="lekhika.dead.v1" x-queue-type="classic"
lekhika.dispatch.v1: durable x-max-length=100000 x-message-ttl=10000 x-overflow="drop-head" x-queue-type="classic"
lekhika.dead.v1: durable x-max-length=100000 x-overflow="drop-head" x-queue-type="classic"
private: exclusive auto-delete x-max-length=1024 x-overflow="drop-head" x-queue-type="classic"
lekhika.announcements.v1: Direct durable"#;

        assert_eq!(declared(QueueType::Classic), expected);
    }

    #[test]
    fn in_a_cluster_this_is_declared() {
        let expected = r#"lekhika.submissions.v1: durable x-dead-letter-exchange="" x-dead-letter-routing-key="lekhika.dead.v1" x-delivery-limit=100 x-queue-type="quorum"
lekhika.dispatch.v1: durable x-max-length=100000 x-message-ttl=10000 x-overflow="drop-head" x-queue-type="classic"
lekhika.dead.v1: durable x-max-length=100000 x-overflow="drop-head" x-queue-type="quorum"
private: exclusive auto-delete x-max-length=1024 x-overflow="drop-head" x-queue-type="classic"
lekhika.announcements.v1: Direct durable"#;

        assert_eq!(declared(QueueType::Quorum), expected);
    }

    #[test]
    fn nothing_is_used_that_rabbitmq_4_removed() {
        // Transient queues that others share, a prefetch for a whole channel, and arguments that quorum queues of 3.10 refuse.
        let (options, _) = private(10);
        assert!(options.exclusive && QueueDeclareOptions::durable().durable);
        assert!(!qos().global);
        for line in declared(QueueType::Quorum).lines().filter(|line| line.contains("quorum")) {
            assert!(!line.contains("x-message-ttl") && !line.contains("x-max-priority"), "{line}");
        }
        for removed in ["x-ha-policy", "x-queue-mode", "x-queue-master-locator"] {
            assert!(!declared(QueueType::Classic).contains(removed), "{removed}");
        }
    }
}
