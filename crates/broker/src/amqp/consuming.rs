//! Consuming a queue over whatever connection there is.

use super::{
    link::{Link, Live},
    outstanding::{Frame, Outstanding},
    topology::{self, Topology},
};
use crate::{
    Consumer, Delivery, Headers, Message, Queue, ReplyTo,
    consumer::{Redelivered, Settle, Settlement},
};
use futures::{StreamExt, future::join_all, stream};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions},
    types::{AMQPValue, FieldTable},
};
use std::time::Duration;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

/// Before a consumer whose channel broke on a good connection subscribes again.
const BACKOFF: Duration = Duration::from_millis(200);

pub(super) fn start(link: &Link, topology: &Topology, queue: Queue, prefetch: u16) -> Consumer {
    let (out, deliveries) = mpsc::channel(usize::from(prefetch));
    let cancel = link.closed.child_token();
    let subscription =
        Subscription { link: link.clone(), topology: topology.clone(), queue, prefetch, out, cancel: cancel.clone() };
    link.spawn(subscription.run());
    let deliveries = stream::unfold(deliveries, |mut deliveries| async move {
        let delivery = deliveries.recv().await?;
        Some((delivery, deliveries))
    });
    Consumer::new(deliveries.boxed(), cancel)
}

struct Subscription {
    link: Link,
    topology: Topology,
    queue: Queue,
    prefetch: u16,
    out: mpsc::Sender<Delivery>,
    cancel: CancellationToken,
}

type Settlements = (u64, Settlement);

impl Subscription {
    async fn run(self) {
        loop {
            let live = tokio::select! {
                () = self.cancel.cancelled() => return,
                live = self.link.wait() => match live {
                    Ok(live) => live,
                    Err(_) => return,
                },
            };
            match self.session(&live).await {
                Ok(()) if self.cancel.is_cancelled() => return,
                Ok(()) => tracing::debug!(queue = %self.queue, "the broker ended a consumer"),
                Err(error) => tracing::debug!(%error, queue = %self.queue, "a consumer lost its channel"),
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = sleep(BACKOFF) => {}
            }
        }
    }

    /// Consumes on one channel until it breaks or the consumer is cancelled.
    async fn session(&self, live: &Live) -> lapin::Result<()> {
        let channel = live.connection.create_channel().await?;
        self.topology.declare_queue(&channel, self.queue).await?;
        channel.basic_qos(self.prefetch, topology::qos()).await?;
        let name = self.topology.queue_name(self.queue).into();
        let options = BasicConsumeOptions::default();
        let mut incoming = channel.basic_consume(name, "".into(), options, FieldTable::default()).await?;
        // Never full: each of at most `prefetch` unsettled deliveries is settled once.
        let (settle, mut settled) = mpsc::channel::<Settlements>(usize::from(self.prefetch));
        let mut outstanding = Outstanding::default();
        let mut batch = Vec::new();
        let mut held: Option<Delivery> = None;
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = live.broken.cancelled() => return Ok(()),
                _ = settled.recv_many(&mut batch, usize::from(self.prefetch)) => {
                    send(&channel, outstanding.settle(batch.drain(..))).await?;
                }
                room = self.out.reserve(), if held.is_some() => match (room, held.take()) {
                    (Ok(room), Some(delivery)) => room.send(delivery),
                    _ => break,
                },
                next = incoming.next(), if held.is_none() => {
                    let Some(next) = next else { return Ok(()) };
                    let next = next?;
                    outstanding.add(next.delivery_tag);
                    held = Some(delivery(self.queue, next, settle.clone()));
                }
            }
        }
        drop((held, settle));
        channel.basic_cancel(incoming.tag(), BasicCancelOptions::default()).await?;
        while let Some(Ok(unseen)) = incoming.next().await {
            send(&channel, vec![Frame::Requeue { tag: unseen.delivery_tag }]).await?;
        }
        settle_the_rest(&channel, live, &mut settled, outstanding).await
    }
}

/// After a cancel: what the consumer still holds can be settled until all of it is.
async fn settle_the_rest(
    channel: &Channel,
    live: &Live,
    settled: &mut mpsc::Receiver<Settlements>,
    mut outstanding: Outstanding,
) -> lapin::Result<()> {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = settled.recv_many(&mut batch, 64) => received,
            () = live.broken.cancelled() => return Ok(()),
        };
        if received == 0 {
            return channel.close(200, "done".into()).await;
        }
        send(channel, outstanding.settle(batch.drain(..))).await?;
    }
}

async fn send(channel: &Channel, frames: Vec<Frame>) -> lapin::Result<()> {
    let sending = frames.into_iter().map(|frame| async move {
        match frame {
            Frame::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            Frame::Requeue { tag } => {
                channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
            }
        }
    });
    join_all(sending).await.into_iter().collect()
}

fn delivery(queue: Queue, from: lapin::message::Delivery, settle: mpsc::Sender<Settlements>) -> Delivery {
    let mut counted = None;
    let mut headers = Headers::new();
    for (name, value) in from.properties.headers().iter().flatten() {
        match value {
            AMQPValue::LongString(text) => {
                headers.insert(name.to_string(), String::from_utf8_lossy(text.as_bytes()).into_owned());
            }
            number if name.as_str() == "x-delivery-count" => counted = as_count(number),
            _ => {}
        }
    }
    let message = Message {
        body: from.data.into(),
        headers,
        message_id: from.properties.message_id().as_ref().map(ToString::to_string),
        reply_to: from.properties.reply_to().as_ref().map(|address| ReplyTo(address.to_string())),
        persistent: from.properties.delivery_mode() == &Some(2),
    };
    let redelivered = Redelivered(counted.unwrap_or(0).max(u32::from(from.redelivered)));
    Delivery::new(queue, message, redelivered, Box::new(OnChannel { tag: from.delivery_tag, settle }))
}

fn as_count(value: &AMQPValue) -> Option<u32> {
    match *value {
        AMQPValue::LongLongInt(n) => u32::try_from(n).ok(),
        AMQPValue::LongInt(n) => u32::try_from(n).ok(),
        AMQPValue::LongUInt(n) => Some(n),
        _ => None,
    }
}

/// A delivery's way back to the task of its channel. When that has ended the broker delivers again.
struct OnChannel {
    tag: u64,
    settle: mpsc::Sender<Settlements>,
}

impl Settle for OnChannel {
    fn settle(&mut self, settlement: Settlement) {
        let _ = self.settle.try_send((self.tag, settlement));
    }

    fn is_stale(&self) -> bool {
        self.settle.is_closed()
    }
}
