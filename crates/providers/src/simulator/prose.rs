//! Prose about something: sentences that say little, with the nouns of the prompt in them.

use super::words::{number_before, quoted_title, topics};

/// Words of an article whose length nobody asked for.
const DEFAULT_WORDS: usize = 180;
/// No prompt gets a longer article than this.
const MAX_WORDS: usize = 6000;

/// `@a` and `@b` are topics. No verb depends on them, so that plurals fit.
const SENTENCES: &[&str] = &[
    "Anyone who looks at @a for long enough begins to see how much of it depends on @b.",
    "The first lesson of @a is that small habits matter more than grand plans.",
    "Much of what is said about @a comes from people who met @b only once, and in good weather.",
    "On a quiet morning, with @b in mind, the question of @a seems almost simple.",
    "There is an old rule among those who care for @a: measure twice, then wait a day.",
    "What connects @a with @b is a long chain of small decisions, most of them forgotten.",
    "A visitor notices @b first; the things that concern @a show themselves later.",
    "Records from earlier years treat @a as a matter of course and mention @b only in passing.",
    "It helps to keep a notebook, to write down what changed in @a, and to leave room for doubt.",
    "Those who work with @b every day rarely speak of @a in general terms.",
    "Where @a and @b meet, the ordinary rules hold, but only just.",
    "The difference between a good season and a poor one often lies in how early @a was given attention.",
    "Nobody planned it that way, and yet @a now shapes how the whole subject of @b is understood.",
    "A patient observer of @a learns to distrust the first explanation and to welcome the second.",
    "By the afternoon the talk usually turns from @b to @a, and from there to the price of good tools.",
    "Three questions decide most cases: what is known about @a, who relies on it, and what can wait.",
    "The simplest test is to take away @b for a week and to see what remains of @a.",
    "Seen from a distance, @a looks like a single thing; up close it falls into a dozen.",
    "Every account of @a leaves something out, and what is left out is usually @b.",
    "Beginners worry about @b; after a few years the worry moves on to @a.",
    "None of this makes @a mysterious: it asks for time, a steady hand and a clear view of @b.",
    "In the north the customs around @a are older, and the words for @b are fewer.",
    "A careful comparison of @a in spring and in autumn tells more than a shelf of manuals.",
    "The best advice about @a is short, because the longer kind is mostly about @b.",
    "Between the two extremes lies a middle way: to let @a rest while @b is put in order.",
    "It would be wrong to call this a theory of @a; it is closer to a set of well-kept habits.",
    "Mistakes with @a are forgiven quickly as long as nobody hides them behind @b.",
    "Old maps show @b where today there is only a path, and @a where nothing was expected.",
    "What lasts is rarely the plan; it is the attention that somebody once paid to @a.",
    "With @b settled, the rest of the work on @a follows almost by itself.",
];

const TITLES: &[&str] = &[
    "The Quiet Side of @A",
    "From @A to @B",
    "A First Look at @A",
    "Living with @A",
    "What @A Can Teach",
    "The Rules of @A",
    "@A in Practice",
    "Beyond @B",
    "Notes on @A and @B",
    "The Long Year of @A",
    "Finding @A",
    "@B, Step by Step",
];

/// A writer of prose: the same fingerprint and prompt, the same sentences.
#[derive(Debug)]
pub(super) struct Prose<'a> {
    state: u64,
    pub(super) prompt: &'a str,
    topics: Vec<String>,
    last: usize,
    titles: usize,
}

impl<'a> Prose<'a> {
    pub(super) fn new(fingerprint: u64, prompt: &'a str) -> Self {
        let titles = usize::try_from(fingerprint >> 40).unwrap_or(0);
        Self { state: fingerprint, prompt, topics: topics(prompt), last: usize::MAX, titles }
    }

    /// A number below `bound` (0 for 0). SplitMix64: no dependence on the versions of a crate.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// One sentence.
    pub(super) fn sentence(&mut self) -> String {
        let mut pick = self.below(SENTENCES.len());
        if pick == self.last {
            pick = (pick + 1) % SENTENCES.len();
        }
        self.last = pick;
        let (first, second) = self.two_topics();
        let sentence = SENTENCES.get(pick).copied().unwrap_or_default();
        capitalised(&sentence.replace("@a", &first).replace("@b", &second))
    }

    /// Something that looks like a title. Several from one writer differ in form.
    pub(super) fn title(&mut self) -> String {
        self.titles = self.titles.wrapping_add(1);
        let form = TITLES.get(self.titles % TITLES.len()).copied().unwrap_or_default();
        let (first, second) = self.two_topics();
        form.replace("@A", &capitalised(&first)).replace("@B", &capitalised(&second))
    }

    /// One word of the prompt.
    pub(super) fn word(&mut self) -> String {
        let pick = self.below(self.topics.len());
        self.topics.get(pick).cloned().unwrap_or_default()
    }

    /// At least `count` words (and tokens) of running text.
    pub(super) fn words(&mut self, count: usize) -> String {
        self.paragraphs(count)
    }

    /// Markdown of about the length the prompt asks for, but not below `at_least` words.
    pub(super) fn article(&mut self, at_least: usize) -> String {
        let wanted = number_before(self.prompt, "word").unwrap_or(DEFAULT_WORDS).clamp(20, MAX_WORDS);
        let mut text = String::new();
        if self.prompt.to_ascii_lowercase().contains("chapter") {
            let title = quoted_title(self.prompt).map_or_else(|| self.title(), str::to_owned);
            text.push_str("## ");
            text.push_str(&title);
            text.push_str("\n\n");
        }
        text.push_str(&self.paragraphs(wanted.max(at_least)));
        text
    }

    fn paragraphs(&mut self, words: usize) -> String {
        let mut text = String::new();
        let mut written = 0;
        while written < words {
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            for at in 0..3 + self.below(3) {
                if written >= words {
                    break;
                }
                let sentence = self.sentence();
                written += sentence.split_whitespace().count();
                if at > 0 {
                    text.push(' ');
                }
                text.push_str(&sentence);
            }
        }
        text
    }

    fn two_topics(&mut self) -> (String, String) {
        let count = self.topics.len();
        let first = self.below(count);
        let second = (first + 1 + self.below(count.saturating_sub(1))) % count.max(1);
        let at = |index: usize| self.topics.get(index).cloned().unwrap_or_default();
        (at(first), at(second))
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_article_has_about_the_words_that_were_asked_for() {
        for wanted in [40, 180, 900] {
            let prompt = format!("Write about {wanted} words on tidal mills.");
            let words = Prose::new(7, &prompt).article(0).split_whitespace().count();

            assert!((wanted..wanted + 30).contains(&words), "{words} for {wanted}");
        }
        let usual = Prose::new(7, "Tidal mills").article(0).split_whitespace().count();
        assert!((DEFAULT_WORDS..DEFAULT_WORDS + 30).contains(&usual));
    }

    #[test]
    fn a_chapter_has_its_heading_and_speaks_of_its_topic() {
        let text = Prose::new(7, "Write the chapter \"Water and Stone\" about tidal mills.").article(0);

        assert!(text.starts_with("## Water and Stone\n\n"), "{text}");
        assert!(text.contains("mills"), "{text}");
        assert!(!text.contains('@'), "{text}");
    }

    #[test]
    fn titles_of_one_writer_differ() {
        let mut prose = Prose::new(3, "tidal mills of the western coast");
        let titles: std::collections::BTreeSet<String> = (0..TITLES.len()).map(|_| prose.title()).collect();

        assert_eq!(titles.len(), TITLES.len());
    }
}
