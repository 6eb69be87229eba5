//! From what flows and models gave to a document that every format can show.

use crate::{Document, Meta, Section, SectionSource};

/// The deepest nesting of quotes and lists a section may have: more is a model gone wrong, and slow to render.
const MOST_MARKERS: usize = 12;

/// Makes a document: titles become single lines, characters that no file can hold are replaced, headings move below their
/// section's, and a heading that repeats the section's title is dropped.
#[must_use]
pub fn assemble(title: &str, meta: Meta, sections: Vec<SectionSource>) -> Document {
    let line = |text: Option<String>| text.map(|text| one_line(&text)).filter(|text| !text.is_empty());
    let title = one_line(title);
    let sections = sections.into_iter().map(|section| {
        let title = line(section.title);
        let level = section.level.clamp(1, 2);
        let markdown = clean_markdown(&section.markdown, title.as_deref(), level);
        Section { title, level, markdown }
    });
    Document {
        title: if title.is_empty() { "Untitled".to_owned() } else { title },
        subtitle: line(meta.subtitle),
        author: line(meta.author),
        language: line(meta.language).filter(|tag| is_language(tag)).unwrap_or_else(|| "en".to_owned()),
        sections: sections.collect(),
    }
}

/// Whether a tag has the shape of BCP 47: it ends up in an attribute.
fn is_language(tag: &str) -> bool {
    tag.len() <= 35
        && tag.split('-').all(|part| (1..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric()))
}

fn one_line(text: &str) -> String {
    text.chars().map(printable).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Characters that XML and terminals refuse become the replacement character.
const fn printable(character: char) -> char {
    match character {
        '\n' | '\t' => character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        _ => character,
    }
}

fn clean_markdown(markdown: &str, title: Option<&str>, level: u8) -> String {
    let text = markdown.replace("\r\n", "\n").replace('\r', "\n");
    let text: String = text.chars().map(printable).collect();
    let text = without_outer_fence(text.trim());
    let text = without_repeated_title(text, title);
    let lines: Vec<&str> = text.trim_matches('\n').split('\n').collect();
    let shallowest = headings(&lines).min().unwrap_or(1);
    let target = level + 2;
    let mut fence = None;
    let mut cleaned = String::with_capacity(text.len() + 16);
    for line in lines {
        let inside = fence.is_some();
        track_fence(line, &mut fence);
        match heading_depth(line).filter(|_| !inside && fence.is_none()) {
            Some(depth) => {
                let moved = (target + depth - shallowest).min(6);
                cleaned.extend(std::iter::repeat_n('#', usize::from(moved)));
                cleaned.push_str(line.trim_start().trim_start_matches('#'));
            }
            None => cleaned.push_str(shallow(line)),
        }
        cleaned.push('\n');
    }
    cleaned.trim_end().to_owned()
}

/// Models like to put their whole answer into a Markdown fence.
fn without_outer_fence(text: &str) -> &str {
    let inside = || {
        let rest = text.strip_prefix("```markdown\n").or_else(|| text.strip_prefix("```md\n"))?;
        rest.strip_suffix("\n```").filter(|inside| !inside.contains("\n```"))
    };
    inside().unwrap_or(text)
}

/// Models like to repeat the title they were given as the first heading.
fn without_repeated_title<'a>(text: &'a str, title: Option<&str>) -> &'a str {
    let Some(title) = title else { return text };
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let plain =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let marked = first.trim().trim_start_matches('#').trim_matches(['*', '_', ' ']);
    let is_heading = heading_depth(first).is_some() || first.trim().starts_with("**");
    let (said, wanted) = (plain(marked), plain(title));
    // "Chapter 3: The Title" repeats it too.
    let repeats = said == wanted || (said.ends_with(&wanted) && said.starts_with("chapter"));
    if is_heading && !wanted.is_empty() && repeats { rest } else { text }
}

fn headings(lines: &[&str]) -> impl Iterator<Item = u8> {
    let mut fence = None;
    lines.iter().filter_map(move |line| {
        let inside = fence.is_some();
        track_fence(line, &mut fence);
        heading_depth(line).filter(|_| !inside && fence.is_none())
    })
}

/// 1 to 6 for an ATX heading.
fn heading_depth(line: &str) -> Option<u8> {
    let text = line.trim_start_matches(' ');
    if line.len() - text.len() > 3 {
        return None;
    }
    let depth = text.bytes().take_while(|byte| *byte == b'#').count();
    let after = text.as_bytes().get(depth);
    let closed = after.is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    u8::try_from(depth).ok().filter(|depth| (1..=6).contains(depth) && closed)
}

/// Follows whether a line stands in a fenced code block.
fn track_fence(line: &str, fence: &mut Option<(u8, usize)>) {
    let text = line.trim_start_matches(' ');
    let Some(mark) = text.bytes().next().filter(|byte| matches!(byte, b'`' | b'~')) else { return };
    let length = text.bytes().take_while(|byte| *byte == mark).count();
    if length < 3 || line.len() - text.len() > 3 {
        return;
    }
    match *fence {
        None => *fence = Some((mark, length)),
        Some((open, least)) if open == mark && length >= least && text.trim_end().len() == length => *fence = None,
        Some(_) => {}
    }
}

/// A line without the quote and list markers that nest too deep.
fn shallow(line: &str) -> &str {
    let is_marker = |byte: &u8| matches!(byte, b'>' | b'-' | b'+' | b'*' | b' ' | b'\t');
    let prefix = line.bytes().take_while(|byte| is_marker(byte)).count();
    let markers = line.bytes().take(prefix).filter(|byte| matches!(byte, b'>' | b'-' | b'+' | b'*')).count();
    // A line of dashes alone is a rule, however long.
    if markers <= MOST_MARKERS || prefix == line.len() && !line.contains('>') && !line.contains(' ') {
        return line;
    }
    line.get(prefix..).unwrap_or(line)
}
