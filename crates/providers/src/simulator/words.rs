//! What a prompt is about and how much it asks for.

/// Words that say how to write, not what about.
const NOT_TOPICS: &[&str] = &[
    "about",
    "above",
    "after",
    "again",
    "also",
    "another",
    "answer",
    "article",
    "audience",
    "because",
    "been",
    "before",
    "begin",
    "being",
    "below",
    "between",
    "book",
    "brief",
    "chapter",
    "chapters",
    "clear",
    "content",
    "context",
    "could",
    "describe",
    "description",
    "detail",
    "details",
    "does",
    "done",
    "each",
    "ending",
    "every",
    "example",
    "explain",
    "fields",
    "first",
    "follow",
    "following",
    "format",
    "from",
    "give",
    "given",
    "goes",
    "guide",
    "have",
    "heading",
    "here",
    "into",
    "introduction",
    "item",
    "items",
    "json",
    "keep",
    "know",
    "last",
    "like",
    "list",
    "long",
    "make",
    "many",
    "markdown",
    "more",
    "most",
    "must",
    "need",
    "next",
    "note",
    "notes",
    "number",
    "object",
    "only",
    "other",
    "outline",
    "output",
    "over",
    "paragraph",
    "paragraphs",
    "part",
    "plain",
    "please",
    "previous",
    "prose",
    "provide",
    "reader",
    "readers",
    "reads",
    "research",
    "response",
    "result",
    "return",
    "review",
    "schema",
    "section",
    "sections",
    "sentence",
    "sentences",
    "short",
    "should",
    "some",
    "start",
    "string",
    "style",
    "such",
    "summarise",
    "summarize",
    "summary",
    "task",
    "tell",
    "text",
    "than",
    "that",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "thing",
    "this",
    "those",
    "through",
    "title",
    "titles",
    "tone",
    "topic",
    "under",
    "upon",
    "using",
    "value",
    "very",
    "want",
    "well",
    "what",
    "when",
    "where",
    "which",
    "while",
    "will",
    "with",
    "without",
    "word",
    "words",
    "would",
    "write",
    "writer",
    "writing",
    "written",
    "your",
];

/// What stands for a topic when the prompt names none.
const FALLBACK: [&str; 4] = ["patience", "weather", "craft", "memory"];

/// How much of a prompt is looked at: long contexts repeat themselves.
const LOOK_AT: usize = 6000;

/// The nouns of a prompt, the most frequent first, at least two.
pub(super) fn topics(prompt: &str) -> Vec<String> {
    let mut found: Vec<(String, usize)> = Vec::new();
    let end = prompt.floor_char_boundary(LOOK_AT);
    for word in prompt.get(..end).unwrap_or_default().split(|c: char| !c.is_alphabetic() && c != '-') {
        let word = word.trim_matches('-').to_lowercase();
        if !(4..=18).contains(&word.chars().count()) || NOT_TOPICS.binary_search(&word.as_str()).is_ok() {
            continue;
        }
        let room = found.len() < 64;
        match found.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None if room => found.push((word, 1)),
            None => {}
        }
    }
    // The sort is stable: of equally frequent words the earlier stays in front.
    found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut topics: Vec<String> = found.into_iter().map(|(word, _)| word).take(10).collect();
    topics.extend(FALLBACK.iter().map(|word| (*word).to_owned()).take(4_usize.saturating_sub(topics.len())));
    topics
}

/// The number in front of a word that begins with `noun`: "about 250 words", "5 short chapters", "300-word".
pub(super) fn number_before(prompt: &str, noun: &str) -> Option<usize> {
    let lower = prompt.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.iter().enumerate().filter(|(_, word)| word.starts_with(noun)).find_map(|(at, _)| {
        let near = words.get(at.saturating_sub(2)..at)?;
        near.iter().rev().find_map(|word| word.parse().ok())
    })
}

/// The text in quotation marks after the word "chapter" or "title", if there is one.
pub(super) fn quoted_title(prompt: &str) -> Option<&str> {
    let lower = prompt.to_ascii_lowercase();
    ["chapter", "title"].iter().find_map(|word| {
        let rest = prompt.get(lower.find(word)?..)?;
        let open = rest.char_indices().take(80).find(|(_, c)| matches!(c, '"' | '“'))?;
        let inside = rest.get(open.0 + open.1.len_utf8()..)?;
        let title = inside.split(['"', '”', '\n']).next()?.trim();
        (3..=100).contains(&title.len()).then_some(title)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_searched() {
        assert!(NOT_TOPICS.is_sorted());
    }

    #[test]
    fn topics_are_what_the_prompt_speaks_of() {
        let topics = topics("Write a chapter about coastal birds. Birds of the harbour, in about 200 words.");

        assert_eq!(topics[..3], ["birds", "coastal", "harbour"]);
        assert!(super::topics("").len() >= 2);
    }

    #[test]
    fn numbers_are_found_before_their_noun() {
        assert_eq!(number_before("Write about 250 words.", "word"), Some(250));
        assert_eq!(number_before("a 300-word text", "word"), Some(300));
        assert_eq!(number_before("Plan 5 short chapters of 80 words", "chapter"), Some(5));
        assert_eq!(number_before("words, many of them", "word"), None);
    }

    #[test]
    fn a_chapters_title_is_taken_from_the_prompt() {
        assert_eq!(quoted_title("Write chapter 2, \"The Night Tide\", now"), Some("The Night Tide"));
        assert_eq!(quoted_title("Write the chapter."), None);
    }
}
