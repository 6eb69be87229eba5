//! Plays a script: what is sent when, and how it ends. The body belongs to the connection, so a client that closes it
//! drops the script in the same moment.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    chunks::{Chunks, event},
    compose::Composed,
    gates::Gate,
    stats::OpenCall,
};

/// Tokens that are due within this time share a write.
const TICK: Duration = Duration::from_millis(8);

/// Tokens without a pace that share a write: a long answer must not be one huge buffer.
const AT_ONCE: usize = 256;

/// One instruction.
#[derive(Debug)]
pub(super) enum Step {
    /// Send these bytes.
    Send(Bytes),
    /// Send each of these alone.
    Pieces(VecDeque<Bytes>),
    /// Write tokens up to this number, one after each interval.
    Tokens { until: usize, every: Duration, with_usage: bool },
    /// Nothing for a while.
    Pause(Duration),
    /// Nothing until the gate opens.
    Hold(Arc<Gate>),
    /// Everything is said; what follows is noise.
    Complete,
    /// The same bytes for ever.
    Repeat(Bytes),
    /// Nothing for ever.
    Silence,
    /// Close the connection.
    Break,
}

/// Plays the steps of one answer.
pub(super) struct Player {
    steps: VecDeque<Step>,
    composed: Composed,
    chunks: Chunks,
    written: usize,
    /// When the running `Tokens` step began, and with which token.
    pace: Option<(Instant, usize)>,
    call: OpenCall,
}

impl Player {
    pub(super) fn new(steps: Vec<Step>, composed: Composed, chunks: Chunks, call: OpenCall) -> Self {
        Self { steps: steps.into(), composed, chunks, written: 0, pace: None, call }
    }

    /// All pieces, until the end or the break.
    pub(super) fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::unfold(self, |mut player| async move { player.next().await.map(|piece| (piece, player)) })
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let Some(step) = self.steps.pop_front() else {
                self.call.complete();
                return None;
            };
            match step {
                Step::Send(bytes) if bytes.is_empty() => {}
                Step::Send(bytes) => {
                    if self.steps.is_empty() {
                        self.call.complete();
                    }
                    return Some(Ok(bytes));
                }
                Step::Pieces(mut pieces) => {
                    let Some(piece) = pieces.pop_front() else { continue };
                    self.steps.push_front(Step::Pieces(pieces));
                    // Lets the server write what it has: each piece is a chunk of its own on the wire.
                    tokio::task::yield_now().await;
                    return Some(Ok(piece));
                }
                Step::Tokens { until, every, with_usage } => {
                    if let Some(bytes) = self.tokens(until, every, with_usage).await {
                        self.steps.push_front(Step::Tokens { until, every, with_usage });
                        return Some(Ok(bytes));
                    }
                }
                Step::Pause(time) => sleep(time).await,
                Step::Hold(gate) => gate.pass().await,
                Step::Complete => self.call.complete(),
                Step::Repeat(bytes) => {
                    self.steps.push_front(Step::Repeat(bytes.clone()));
                    return Some(Ok(bytes));
                }
                Step::Silence => std::future::pending().await,
                Step::Break => {
                    self.call.complete();
                    // What was said before is written before the connection breaks.
                    sleep(Duration::from_millis(2)).await;
                    return Some(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
        }
    }

    /// The tokens that are due, at least one; `None` when the step is done.
    async fn tokens(&mut self, until: usize, every: Duration, with_usage: bool) -> Option<Bytes> {
        let until = until.min(self.composed.tokens());
        if self.written >= until {
            self.pace = None;
            return None;
        }
        let (began, first) = *self.pace.get_or_insert_with(|| (Instant::now(), self.written));
        let due = if every.is_zero() {
            until.min(self.written + AT_ONCE)
        } else {
            let nth = u32::try_from(self.written - first + 1).unwrap_or(u32::MAX);
            let next = began + every.saturating_mul(nth);
            // Fast tokens gather for a tick; slow ones come exactly when they are due.
            sleep_until(if every < TICK { next.max(Instant::now() + TICK) } else { next }).await;
            let ticks = began.elapsed().as_nanos() / every.as_nanos().max(1);
            (first + usize::try_from(ticks).unwrap_or(until)).clamp(self.written + 1, until)
        };
        let mut bytes = Vec::new();
        for token in self.written..due {
            let so_far = with_usage.then_some(token + 1);
            bytes.extend_from_slice(&event(&self.chunks.text(self.composed.part(token, token + 1), so_far)));
        }
        self.written = due;
        Some(Bytes::from(bytes))
    }
}

/// The body of an answer: all at once, or played.
pub(super) enum Answer {
    Whole(Option<Bytes>),
    Played(BoxStream<'static, io::Result<Bytes>>),
}

impl Answer {
    pub(super) fn played(player: Player) -> Self {
        Self::Played(player.stream().boxed())
    }
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Played(stream) => stream.poll_next_unpin(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Played(_) => SizeHint::default(),
        }
    }
}
