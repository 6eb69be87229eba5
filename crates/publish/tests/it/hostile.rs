//! Models' text is hostile input: it never executes, loads or breaks a file.

use std::time::Instant;

use proptest::prelude::*;
use publish::{Format, Meta, SectionSource, assemble, render};

use crate::{document, section, text};

/// The tags of a file outside of its style sheet; panics if they are not balanced.
fn tags(html: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut seen = Vec::new();
    let body = html.replace(&html[html.find("<style>").unwrap()..html.find("</style>").unwrap()], "<style>");
    let mut rest = body.strip_prefix("<!DOCTYPE html>").unwrap();
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        assert!(!name.is_empty(), "a stray < before {tag:?}");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "{tag}");
        } else {
            seen.push(tag.to_owned());
            if !matches!(name.as_str(), "meta" | "br" | "hr" | "input") && !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    seen
}

fn assert_harmless(html: &str) {
    let lower = html.to_lowercase();
    for forbidden in ["<script", "<img", "<iframe", "<object", "<embed", "<svg", "<link", "<form", "<base"] {
        assert!(!lower.contains(forbidden), "{forbidden}");
    }
    for tag in tags(html) {
        let tag = tag.to_lowercase();
        assert!(
            !tag.split_whitespace().skip(1).any(|attribute| attribute.starts_with("on") && !attribute.contains('"')),
            "{tag}"
        );
        assert!(!tag.contains("href=\"javascript:") && !tag.contains("href=\"data:") && !tag.contains("src="), "{tag}");
    }
}

#[test]
fn scripts_and_raw_html_are_shown_as_text() {
    let attack = "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\n\n[a](javascript:alert(1)) ![b](https://evil.invalid/b.png \"t\")\n\n\
        <a href=\"data:text/html,x\">x</a> <svg/onload=alert(1)>\n\n<iframe src=\"//evil.invalid\"></iframe>\n\n<!-- x --><style>*{}</style>";
    let document = assemble(
        "<script>alert(1)</script>",
        Meta {
            subtitle: Some("\"><img src=x>".to_owned()),
            author: Some("\" onload=\"x".to_owned()),
            language: Some("en\"><x".to_owned()),
        },
        vec![section("</h2><script>alert(2)</script>", attack)],
    );

    let html = text(&document, Format::Html);

    assert_harmless(&html);
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("<html lang=\"en\""));
    assert!(html.contains("<a href=\"https://evil.invalid/b.png\" title=\"t\">b</a>"), "an image is a link");
}

#[test]
fn control_characters_never_reach_a_file() {
    let document = document(vec![section("a\u{0}b\u{7}", "c\u{0}d\u{1b}[31m\r\ne\u{9b}f\u{ffff}")]);
    for format in Format::ALL {
        let text = text(&document, format);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{format:?}");
    }
    assert!(text(&document, Format::Txt).contains("c\u{fffd}d"));
}

#[test]
fn other_scripts_and_emoji_stay_what_they_are() {
    let document = assemble(
        "كتاب",
        Meta { language: Some("ar".to_owned()), ..Meta::default() },
        vec![section("פרק 👩‍👩‍👧", "نص عربي و English و हिन्दी 🌿")],
    );
    for format in Format::ALL {
        assert!(text(&document, format).contains("نص عربي و English و हिन्दी 🌿"), "{format:?}");
    }
    assert!(text(&document, Format::Html).contains("<html lang=\"ar\" dir=\"rtl\">"));
}

#[test]
fn no_shape_of_text_takes_long_or_falls_over() {
    let shapes = [
        "x".repeat(100_000),
        "word ".repeat(20_000),
        "> ".repeat(50_000) + "x",
        "- ".repeat(50_000) + "x",
        "*".repeat(50_000) + "a" + &"*".repeat(50_000),
        "[".repeat(50_000),
        "[a](".repeat(25_000),
        "`".repeat(50_000) + "a",
        "<".repeat(50_000),
        "![".repeat(50_000),
        "#".repeat(50_000),
        "|a".repeat(20_000) + "\n" + &"|-".repeat(20_000),
        "a\n".repeat(50_000),
        "~~".repeat(50_000),
        "**a ".repeat(25_000),
        "[^1]".repeat(20_000) + "\n\n[^1]: x",
        (0..300).map(|depth| format!("{}- x\n", " ".repeat(depth * 2))).collect(),
        "&".repeat(100_000),
        "http://".repeat(20_000),
        "a_b_".repeat(25_000),
        "1. ".repeat(30_000),
    ];
    for shape in shapes {
        let shown: String = shape.chars().take(12).collect();
        let document = document(vec![section("T", &shape)]);
        for format in Format::ALL {
            let started = Instant::now();
            render(&document, format).unwrap();
            assert!(started.elapsed().as_secs() < 10, "{format:?} of {shown:?} took {:?}", started.elapsed());
        }
        assert_harmless(&text(&document, Format::Html));
    }
}

proptest! {
    #[test]
    fn any_text_makes_every_file(title in "\\PC{0,40}", markdown in "\\PC{0,400}") {
        let document = document(vec![section(&title, &markdown)]);
        for format in Format::ALL {
            let file = render(&document, format).unwrap();
            prop_assert!(std::str::from_utf8(&file.bytes).is_ok());
        }
        assert_harmless(&text(&document, Format::Html));
    }

    #[test]
    fn markup_of_any_kind_stays_harmless(markdown in "[<>a-z/=\"'!\\[\\]()#*`~|\\-& \\n:]{0,300}") {
        let source = SectionSource { title: Some(markdown.clone()), level: 9, markdown };
        assert_harmless(&text(&document(vec![source]), Format::Html));
    }

    #[test]
    fn no_word_of_plain_prose_is_lost(words in prop::collection::vec("[a-z]{1,90}", 1..200)) {
        let document = document(vec![section("T", &words.join(" "))]);
        let file = text(&document, Format::Txt);
        let body: Vec<&str> = file.split("\nT\n=\n").nth(1).unwrap().split_whitespace().collect();
        prop_assert_eq!(body, words);
        prop_assert!(file.lines().all(|line| line.chars().count() <= 72 || !line.contains(' ')));
    }
}
