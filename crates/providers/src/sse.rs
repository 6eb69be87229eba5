//! Server-sent events, read incrementally from bytes: the network may cut anywhere, the events stay the same.

use serde::de::IgnoredAny;

/// The largest event that is read, in bytes.
pub const DEFAULT_MAX_EVENT: usize = 16 * 1024 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event:` name, if one was given.
    pub event: Option<String>,
    /// The `data:` lines, joined with line feeds.
    pub data: String,
    /// The last `id:` seen on the stream, if any.
    pub id: Option<String>,
}

/// One dispatched event, borrowed from the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEventRef<'a> {
    /// The `event:` name, if one was given.
    pub event: Option<&'a str>,
    /// The `data:` lines, joined with line feeds.
    pub data: &'a str,
    /// The last `id:` seen on the stream, if any.
    pub id: Option<&'a str>,
}

impl SseEventRef<'_> {
    fn to_owned(self) -> SseEvent {
        SseEvent { event: self.event.map(str::to_owned), data: self.data.to_owned(), id: self.id.map(str::to_owned) }
    }
}

/// Why reading a stream was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event is larger than allowed. The parser must not be used again.
    #[error("read a server-sent event of more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// The parser: feed it bytes as they come.
#[derive(Debug)]
pub struct SseParser {
    max_event: usize,
    /// A line whose end has not come yet.
    line: Vec<u8>,
    /// The data of the event being read, each line with its line feed.
    data: Vec<u8>,
    event: Option<String>,
    id: Option<String>,
    retry_ms: Option<u64>,
    /// The last byte was a CR: a LF right after it belongs to the same line end.
    after_cr: bool,
    first_line: bool,
}

impl Default for SseParser {
    fn default() -> Self {
        Self::with_max_event(DEFAULT_MAX_EVENT)
    }
}

impl SseParser {
    /// A parser that refuses events above `max_event` bytes.
    #[must_use]
    pub const fn with_max_event(max_event: usize) -> Self {
        Self {
            max_event,
            line: Vec::new(),
            data: Vec::new(),
            event: None,
            id: None,
            retry_ms: None,
            after_cr: false,
            first_line: true,
        }
    }

    /// The reconnection time the server asked for last, in milliseconds.
    #[must_use]
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Reads bytes and hands every event they complete to `on_event`, without allocating per event.
    ///
    /// # Errors
    /// When an event is too large.
    pub fn feed(&mut self, mut bytes: &[u8], mut on_event: impl FnMut(SseEventRef<'_>)) -> Result<(), SseError> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr)
                && let Some(rest) = bytes.strip_prefix(b"\n")
            {
                bytes = rest;
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                return self.check(self.line.len());
            };
            let (line, rest) = bytes.split_at(end);
            self.after_cr = rest.first() == Some(&b'\r');
            bytes = rest.get(1..).unwrap_or_default();
            self.end_line(line, &mut on_event)?;
        }
        Ok(())
    }

    /// Reads bytes; the events they complete.
    ///
    /// # Errors
    /// When an event is too large; the events before it are lost.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, SseError> {
        let mut events = Vec::new();
        self.feed(bytes, |event| events.push(event.to_owned()))?;
        Ok(events)
    }

    /// The stream is over. An event whose blank line is missing is dropped, as the standard says, unless its data is
    /// complete JSON or `[DONE]`: real servers forget the last line.
    pub fn finish(&mut self) -> Option<SseEvent> {
        let mut last = None;
        if !self.line.is_empty() {
            // Without its end a line may be cut anywhere; the check of its JSON decides.
            self.end_line(&[], &mut |event| last = Some(event.to_owned())).ok()?;
        }
        let data = String::from_utf8_lossy(&self.data);
        let data = data.strip_suffix('\n')?;
        let complete = data.trim() == "[DONE]" || serde_json::from_str::<IgnoredAny>(data).is_ok();
        if complete {
            last = Some(SseEventRef { event: self.event.as_deref(), data, id: self.id.as_deref() }.to_owned());
        }
        self.data.clear();
        self.event = None;
        last
    }

    const fn check(&self, length: usize) -> Result<(), SseError> {
        if length > self.max_event { Err(SseError::TooLarge { limit: self.max_event }) } else { Ok(()) }
    }

    fn end_line(&mut self, end: &[u8], on_event: &mut impl FnMut(SseEventRef<'_>)) -> Result<(), SseError> {
        if self.line.is_empty() {
            return self.take_line(end, on_event);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(end);
        let taken = self.take_line(&line, on_event);
        line.clear();
        self.line = line;
        taken
    }

    fn take_line(&mut self, mut line: &[u8], on_event: &mut impl FnMut(SseEventRef<'_>)) -> Result<(), SseError> {
        self.check(line.len())?;
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(on_event);
            return Ok(());
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => return Ok(()),
            Some(colon) => {
                let (field, value) = line.split_at(colon);
                let value = value.get(1..).unwrap_or_default();
                (field, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        self.take_field(field, value)
    }

    fn take_field(&mut self, field: &[u8], value: &[u8]) -> Result<(), SseError> {
        match field {
            b"data" => {
                self.check(self.data.len() + value.len())?;
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.event = Some(String::from_utf8_lossy(value).into_owned()),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(SseEventRef<'_>)) {
        if !self.data.is_empty() {
            let data = String::from_utf8_lossy(&self.data);
            let data = data.strip_suffix('\n').unwrap_or(&data);
            let event = self.event.as_deref().filter(|name| !name.is_empty());
            on_event(SseEventRef { event, data, id: self.id.as_deref() });
        }
        self.data.clear();
        self.event = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All events of a stream fed in the given pieces, and what ended it.
    fn read(max_event: usize, pieces: &[&[u8]]) -> (Vec<SseEvent>, Result<(), SseError>) {
        let mut parser = SseParser::with_max_event(max_event);
        let mut events = Vec::new();
        for piece in pieces {
            if let Err(error) = parser.feed(piece, |event| events.push(event.to_owned())) {
                return (events, Err(error));
            }
        }
        events.extend(parser.finish());
        (events, Ok(()))
    }

    fn data_of(text: &str) -> Vec<String> {
        read(DEFAULT_MAX_EVENT, &[text.as_bytes()]).0.into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        for text in ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\rdata: b\r\r"] {
            assert_eq!(data_of(text), ["a", "b"], "{text:?}");
        }
    }

    #[test]
    fn data_lines_are_joined_and_only_one_space_is_dropped() {
        assert_eq!(data_of("data:  a\ndata:b\ndata\n\n"), [" a\nb\n"]);
    }

    #[test]
    fn comments_unknown_fields_and_events_without_data_are_nothing() {
        assert_eq!(data_of(": ping\n\nevent: x\n\nfoo: bar\n\ndata: a\n\n"), ["a"]);
    }

    #[test]
    fn a_byte_order_mark_is_dropped_once() {
        assert_eq!(data_of("\u{FEFF}data: a\n\n"), ["a"]);
        assert_eq!(data_of("\u{FEFF}\u{FEFF}data: a\n\n"), Vec::<String>::new());
        assert_eq!(data_of("data: \u{FEFF}a\n\n"), ["\u{FEFF}a"]);
    }

    #[test]
    fn names_and_ids_come_with_the_event() {
        let (events, _) = read(64, &[b"id: 7\nevent: note\nretry: 250\ndata: a\n\ndata: b\n\nid: x\0y\ndata: c\n\n"]);

        assert_eq!(events[0], SseEvent { event: Some("note".into()), data: "a".into(), id: Some("7".into()) });
        assert_eq!(events[1], SseEvent { event: None, data: "b".into(), id: Some("7".into()) });
        assert_eq!(events[2].id.as_deref(), Some("7"));
    }

    #[test]
    fn the_last_event_may_lack_its_blank_line_if_it_is_whole() {
        assert_eq!(data_of("data: {\"a\":1}"), ["{\"a\":1}"]);
        assert_eq!(data_of("data: {\"a\":1}\n"), ["{\"a\":1}"]);
        assert_eq!(data_of("data: [DONE]"), ["[DONE]"]);
        assert_eq!(data_of("data: {\"a\":"), Vec::<String>::new());
        assert_eq!(data_of("data: half a sente"), Vec::<String>::new());
    }

    #[test]
    fn too_large_an_event_is_refused_however_it_comes() {
        let lines = b"data: 12345\ndata: 12345\ndata: 12345\n\n";
        let (events, result) = read(12, &[b"data: ok\n\n", lines]);

        assert_eq!(events.len(), 1);
        assert_eq!(result, Err(SseError::TooLarge { limit: 12 }));
        assert_eq!(read(12, &[&b"x".repeat(13)]).1, Err(SseError::TooLarge { limit: 12 }));
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let (events, _) = read(64, &[b"data: a\xFFb\n\n"]);

        assert_eq!(events[0].data, "a\u{FFFD}b");
    }

    /// Streams of the bytes that matter: line ends, fields, the mark, characters of several bytes.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let atom = prop_oneof![
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just(b"data: ".to_vec()),
            Just(b"data:".to_vec()),
            Just(b"event: n".to_vec()),
            Just(b"id: 4".to_vec()),
            Just(b": comment".to_vec()),
            Just(BOM.to_vec()),
            Just("é漢🎈".as_bytes().to_vec()),
            Just(b"{\"a\":1}".to_vec()),
            Just(b"[DONE]".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(atom, 0..40).prop_map(|atoms| atoms.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_of_the_same_bytes_gives_the_same_events(
            bytes in stream(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            max_event in prop_oneof![Just(DEFAULT_MAX_EVENT), Just(16_usize)],
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();

            let whole = read(max_event, &[&bytes]);

            prop_assert_eq!(&read(max_event, &pieces), &whole);
            prop_assert_eq!(&read(max_event, &single), &whole);
        }

        #[test]
        fn what_is_written_as_an_event_is_read_back(texts in proptest::collection::vec("[^\r\n]{0,20}", 1..8)) {
            let mut bytes = String::new();
            for text in &texts {
                bytes.push_str(&format!("data: {text}\r\n\r\n"));
            }

            prop_assert_eq!(data_of(&bytes), texts);
        }
    }
}
