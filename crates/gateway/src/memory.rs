//! Answers of status that are remembered: fresh for seconds, and used up to ten minutes while status is silent.

use std::{hash::Hash, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use moka::future::Cache;
use parking_lot::Mutex;
use service::{InternalError, Shutdown};
use tokio::time::{Instant, timeout};

/// How long an answer is believed while status answers, from when it was asked. Together with the time status has to answer
/// ([`WITHIN`]) this is how long a change takes to arrive: five seconds.
const FRESH: Duration = Duration::from_secs(3);
/// How long it is remembered while status does not answer.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How long a request waits for a fresh answer when there is a remembered one.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a remembered answer is used without asking after status was silent.
const SILENCE: Duration = Duration::from_secs(2);
/// How long an answer that is not remembered is not asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long status has to answer.
pub(crate) const WITHIN: Duration = Duration::from_secs(2);

/// What was asked lately, and the answers.
pub(crate) struct Memory<Q, A> {
    known: Cache<Q, Arc<Known<A>>>,
    /// Single flight: those who ask the same at once wait for one answer.
    asking: Cache<Q, Arc<Known<A>>>,
    lasting: fn(&A) -> bool,
    shutdown: Shutdown,
}

impl<Q, A> Clone for Memory<Q, A> {
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            asking: self.asking.clone(),
            lasting: self.lasting,
            shutdown: self.shutdown.clone(),
        }
    }
}

struct Known<A> {
    answer: A,
    /// Until when nobody asks again. In the entry itself: an answer that was dropped meanwhile cannot come back.
    until: Mutex<Instant>,
}

impl<A> Known<A> {
    fn is_fresh(&self) -> bool {
        Instant::now() < *self.until.lock()
    }

    fn believe(&self) {
        *self.until.lock() = Instant::now() + SILENCE;
    }
}

impl<Q, A> Memory<Q, A>
where
    Q: Hash + Eq + Clone + Send + Sync + 'static,
    A: Clone + Send + Sync + 'static,
{
    /// For so many questions at most. Only `lasting` answers are remembered.
    pub(crate) fn new(capacity: u64, lasting: fn(&A) -> bool, shutdown: Shutdown) -> Self {
        Self {
            known: Cache::builder().max_capacity(capacity).time_to_live(REMEMBERED).build(),
            asking: Cache::builder().max_capacity(capacity).time_to_live(AGAIN).build(),
            lasting,
            shutdown,
        }
    }

    /// The answer: a fresh one, or a remembered one while status is silent.
    ///
    /// # Errors
    /// When status is silent and nothing is remembered.
    pub(crate) async fn get(
        &self,
        question: Q,
        ask: impl FnOnce() -> BoxFuture<'static, Result<A, InternalError>>,
    ) -> Result<A, Arc<InternalError>> {
        let Some(known) = self.known.get(&question).await else { return self.ask(question, ask()).await };
        if known.is_fresh() {
            return Ok(known.answer.clone());
        }
        let (this, held, ask) = (self.clone(), Arc::clone(&known), ask());
        // Whoever asked may not want to wait for it: the answer is for the next.
        let refresh = self.shutdown.spawn(async move {
            let answer = this.ask(question, ask).await;
            if answer.is_err() {
                held.believe();
            }
            answer
        });
        match timeout(PATIENCE, refresh).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            _ => {
                known.believe();
                Ok(known.answer.clone())
            }
        }
    }

    async fn ask(
        &self,
        question: Q,
        ask: BoxFuture<'static, Result<A, InternalError>>,
    ) -> Result<A, Arc<InternalError>> {
        let asked = Instant::now();
        let ask = async { Ok(Arc::new(Known { answer: ask.await?, until: Mutex::new(asked + FRESH) })) };
        let known = self.asking.try_get_with(question.clone(), ask).await?;
        let answer = known.answer.clone();
        if (self.lasting)(&answer) {
            self.known.insert(question.clone(), known).await;
            // The next question after the fresh time must reach status.
            self.asking.invalidate(&question).await;
        } else {
            self.known.invalidate(&question).await;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    type Answers = Memory<u8, Option<u8>>;

    fn silent() -> Result<Option<u8>, InternalError> {
        Err(InternalError::Timeout { url: String::new() })
    }

    async fn aged(memory: &Answers) {
        memory.get(1, || async { Ok(Some(1)) }.boxed()).await.unwrap();
        *memory.known.get(&1).await.unwrap().until.lock() = Instant::now();
    }

    #[tokio::test]
    async fn a_remembered_answer_is_used_while_nobody_answers_and_then_without_asking() {
        let memory = Answers::new(10, Option::is_some, Shutdown::new());
        aged(&memory).await;
        let started = Instant::now();

        let silence = memory.get(1, || std::future::pending().boxed()).await.unwrap();
        let without_asking = memory.get(1, || panic!("asked")).await.unwrap();

        assert_eq!((silence, without_asking), (Some(1), Some(1)));
        assert!(started.elapsed() < 3 * PATIENCE);
    }

    #[tokio::test]
    async fn an_answer_that_was_withdrawn_does_not_come_back() {
        let memory = Answers::new(10, Option::is_some, Shutdown::new());
        aged(&memory).await;

        assert_eq!(memory.get(1, || async { Ok(None) }.boxed()).await.unwrap(), None);
        *memory.asking.get(&1).await.unwrap().until.lock() = Instant::now();
        memory.asking.invalidate(&1).await;

        assert!(memory.get(1, || async { silent() }.boxed()).await.is_err());
    }

    #[tokio::test]
    async fn a_late_answer_is_for_the_next_question() {
        let memory = Answers::new(10, Option::is_some, Shutdown::new());
        aged(&memory).await;
        let (answer, late) = tokio::sync::oneshot::channel();

        let first = memory.get(1, || async { Ok(late.await.unwrap_or_default()) }.boxed()).await.unwrap();
        answer.send(Some(2)).unwrap();
        while !memory.shutdown.tasks.is_empty() {
            tokio::task::yield_now().await;
        }

        assert_eq!(first, Some(1));
        assert_eq!(memory.get(1, || panic!("asked")).await.unwrap(), Some(2));
    }
}
