//! Streamed text of one unit, gathered into pieces worth a row in the log.

use domain::UnitKey;

/// How many bytes are gathered at most while somebody watches.
const WATCHED_BYTES: usize = 2 << 10;
/// How many bytes are gathered at most while nobody watches.
const UNWATCHED_BYTES: usize = 16 << 10;

/// A piece of text for one `output.delta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The text.
    pub(crate) text: String,
    /// Code points before it.
    pub(crate) offset: u64,
}

/// The text of one open unit that is not in an event yet.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) key: UnitKey,
    gathered: String,
    /// Code points before what is gathered.
    offset: u64,
}

impl Stream {
    pub(crate) fn new(key: UnitKey) -> Self {
        Self { key, gathered: String::new(), offset: 0 }
    }

    /// Adds text. `true` when it has to go into an event now: it is much, or it is the first that a watcher sees.
    pub(crate) fn push(&mut self, text: &str, watched: bool) -> bool {
        self.gathered.push_str(text);
        let limit = if watched { WATCHED_BYTES } else { UNWATCHED_BYTES };
        self.gathered.len() >= limit || (watched && self.offset == 0)
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.gathered.len()
    }

    /// Takes what waits.
    pub(crate) fn take(&mut self) -> Option<Piece> {
        if self.gathered.is_empty() {
            return None;
        }
        let text = std::mem::take(&mut self.gathered);
        let offset = self.offset;
        self.offset += text.chars().count() as u64;
        Some(Piece { text, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_put_together_are_the_text(
            tokens in prop::collection::vec("[a-z ]{0,9}|[\u{900}-\u{97f}]{1,5}|\u{1f600}", 0..300),
            flushes in prop::collection::vec(any::<bool>(), 300),
            watched in any::<bool>(),
        ) {
            let mut stream = Stream::new(UnitKey::node("a"));
            let mut pieces = Vec::new();
            for (token, flush) in tokens.iter().zip(flushes) {
                if stream.push(token, watched) || flush {
                    pieces.extend(stream.take());
                }
            }
            pieces.extend(stream.take());

            let mut text = String::new();
            for piece in pieces {
                prop_assert_eq!(piece.offset, text.chars().count() as u64);
                prop_assert!(!piece.text.is_empty());
                text.push_str(&piece.text);
            }
            prop_assert_eq!(text, tokens.concat());
        }
    }

    #[test]
    fn a_watcher_gets_the_first_token_at_once_and_then_gathered_ones() {
        let mut stream = Stream::new(UnitKey::node("a"));

        assert!(stream.push("One", true));
        stream.take();

        assert!(!stream.push(" two", true));
        assert!(stream.push(&"x".repeat(WATCHED_BYTES), true));
    }

    #[test]
    fn without_a_watcher_only_size_matters() {
        let mut stream = Stream::new(UnitKey::node("a"));

        assert!(!stream.push("One", false));
        assert!(!stream.push(&"x".repeat(WATCHED_BYTES), false));
        assert!(stream.push(&"x".repeat(UNWATCHED_BYTES), false));
    }
}
