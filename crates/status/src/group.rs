//! Group commit: one write at a time for many requests. What gathers while one commits is the next; when idle, it goes at once.

use std::sync::Arc;

use storage::StorageError;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for a write. Each caller waits for its answer, so this only bounds how many callers there are.
const WAITING: usize = 1_024;

/// Why a request was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum GroupError {
    /// The write failed, for everybody in it.
    #[error(transparent)]
    Storage(Arc<StorageError>),
    /// The term is over: nobody writes any more.
    #[error("the term is over")]
    Over,
}

/// A request that waits to be written.
pub(crate) struct Waiting<T, R> {
    /// What to write.
    pub(crate) work: T,
    answer: oneshot::Sender<Result<R, GroupError>>,
}

impl<T, R> Waiting<T, R> {
    /// Answers it; whoever asked may have gone.
    pub(crate) fn answer(self, result: Result<R, GroupError>) {
        let _gone = self.answer.send(result);
    }
}

/// The callers' side.
pub(crate) struct Group<T, R> {
    sender: mpsc::Sender<Waiting<T, R>>,
}

/// The writer's side.
pub(crate) struct Gathered<T, R> {
    receiver: mpsc::Receiver<Waiting<T, R>>,
    /// Came, but did not fit into the last batch.
    left: Option<Waiting<T, R>>,
}

/// Both sides of one kind of write.
pub(crate) fn group<T, R>() -> (Group<T, R>, Gathered<T, R>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Group { sender }, Gathered { receiver, left: None })
}

impl<T, R> Group<T, R> {
    /// Has it written with what else waits, and returns what became of it.
    ///
    /// # Errors
    /// [`GroupError`].
    pub(crate) async fn write(&self, work: T) -> Result<R, GroupError> {
        let (answer, answered) = oneshot::channel();
        self.sender.send(Waiting { work, answer }).await.map_err(|_ended| GroupError::Over)?;
        answered.await.unwrap_or(Err(GroupError::Over))
    }
}

impl<T, R> Gathered<T, R> {
    /// Everything that waits, up to about `most` by `size`; at least one. `None` when nobody can ask any more.
    pub(crate) async fn next(&mut self, most: usize, size: impl Fn(&T) -> usize) -> Option<Vec<Waiting<T, R>>> {
        let first = match self.left.take() {
            Some(left) => left,
            None => self.receiver.recv().await?,
        };
        let mut total = size(&first.work);
        let mut batch = vec![first];
        while let Ok(next) = self.receiver.try_recv() {
            total += size(&next.work);
            if total > most {
                self.left = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_written_together_up_to_the_limit_and_nothing_is_left_behind() {
        let (group, mut gathered) = group::<usize, usize>();
        let writes = futures::future::join_all((1..=4).map(|work| group.write(work)));
        let writer = async {
            let mut sizes = Vec::new();
            while sizes.iter().sum::<usize>() < 4 {
                let batch = gathered.next(6, |work| *work).await.unwrap();
                sizes.push(batch.len());
                for waiting in batch {
                    let double = waiting.work * 2;
                    waiting.answer(Ok(double));
                }
            }
            sizes
        };

        let (answers, sizes) = tokio::join!(writes, writer);

        assert_eq!(sizes, [3, 1], "1 + 2 + 3 fit into 6, 4 does not");
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [2, 4, 6, 8]);
    }

    #[tokio::test]
    async fn a_writer_that_ends_answers_everybody() {
        let (group, gathered) = group::<usize, usize>();
        let (answer, ()) = tokio::join!(group.write(1), async { drop(gathered) });

        assert!(matches!(answer, Err(GroupError::Over)));
    }
}
