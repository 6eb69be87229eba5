//! Which shards of live events this gateway hears: at least those of the executions that are watched here.

use std::collections::HashSet;

use broker::Bindings;
use protocol::live::topic_of;

/// The shards that are bound, as far as this task knows. Viewers bind theirs themselves, before they look.
#[derive(Default)]
pub(crate) struct Shards {
    bound: HashSet<u16>,
}

impl Shards {
    /// Binds what is wanted and lets go of the rest. `true` when a shard may have been unheard for a moment.
    ///
    /// A viewer may come between any two steps: it is counted in `wanted` before it binds. So what is let go is looked at
    /// again afterwards; who comes later than that look binds later than the unbinding.
    pub(crate) async fn settle(&mut self, bindings: &Bindings, wanted: impl Fn() -> HashSet<u16>) -> bool {
        let now = wanted();
        for shard in &now {
            // Binding twice is binding once; one that failed is remembered by the broker's client.
            if self.bound.insert(*shard) && bindings.bind(&topic_of(*shard)).await.is_err() {
                self.bound.remove(shard);
            }
        }
        let mut missed = false;
        for shard in self.bound.clone().difference(&now) {
            if wanted().contains(shard) {
                continue;
            }
            // Hearing too much is harmless; it is tried again in the next round.
            if bindings.unbind(&topic_of(*shard)).await.is_ok() {
                self.bound.remove(shard);
            }
            if wanted().contains(shard) {
                missed = true;
                if bindings.bind(&topic_of(*shard)).await.is_ok() {
                    self.bound.insert(*shard);
                }
            }
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::{Broker as _, Heard, InProcessBroker};
    use parking_lot::Mutex;
    use std::time::Duration;

    #[tokio::test]
    async fn a_viewer_who_comes_while_its_shard_is_let_go_hears_it() {
        let broker = InProcessBroker::new();
        let mut listener = broker.listen(&[], 16);
        let bindings = listener.bindings();
        let mut shards = Shards::default();
        assert!(!shards.settle(&bindings, || HashSet::from([7])).await);
        // Nobody watches at the first two looks; the viewer has come, and has bound, at the third.
        let looks = Mutex::new(0);

        let missed = shards.settle(&bindings, || {
            let mut looks = looks.lock();
            *looks += 1;
            if *looks > 2 { HashSet::from([7]) } else { HashSet::new() }
        });

        assert!(missed.await);
        broker.announce(&topic_of(7), "event".into());
        let heard = async {
            loop {
                if let Some(Heard::Announcement(heard)) = listener.next().await {
                    return heard;
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap();
        assert_eq!(heard.body, "event");
    }
}
