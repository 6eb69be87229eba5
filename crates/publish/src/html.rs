//! The document as one accessible HTML file without scripts and without anything to load.

use std::fmt::Write as _;

use comrak::{Arena, format_html};

use crate::{Document, PublishError, Section, tree};

const STYLE: &str = include_str!("style.css");

pub(crate) fn render(document: &Document) -> Result<String, PublishError> {
    let title = escaped(&document.title);
    let mut out = String::with_capacity(16 * 1024);
    let direction = if is_right_to_left(&document.language) { "rtl" } else { "ltr" };
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"{}\" dir=\"{direction}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<title>{title}</title>\n",
        escaped(&document.language)
    );
    if let Some(author) = &document.author {
        let _ = writeln!(out, "<meta name=\"author\" content=\"{}\">", escaped(author));
    }
    let _ = write!(
        out,
        "<style>\n{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#text\">Skip to the text</a>\n"
    );
    let _ = write!(out, "<header>\n<h1 dir=\"auto\">{title}</h1>\n");
    if let Some(subtitle) = &document.subtitle {
        let _ = writeln!(out, "<p class=\"subtitle\" dir=\"auto\">{}</p>", escaped(subtitle));
    }
    if let Some(author) = &document.author {
        let _ = writeln!(out, "<p class=\"author\" dir=\"auto\">{}</p>", escaped(author));
    }
    out.push_str("</header>\n");
    contents(document, &mut out);
    out.push_str("<main id=\"text\">\n");
    for (number, section) in document.sections.iter().enumerate() {
        write_section(number + 1, section, &mut out)?;
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(out)
}

fn contents(document: &Document, out: &mut String) {
    let titled = || document.sections.iter().enumerate().filter(|(_, section)| section.title.is_some());
    if titled().count() < 2 {
        return;
    }
    out.push_str("<nav aria-label=\"Contents\">\n<h2>Contents</h2>\n<ol>\n");
    for (number, section) in titled() {
        let title = escaped(section.title.as_deref().unwrap_or_default());
        let _ = writeln!(
            out,
            "<li class=\"level-{}\"><a href=\"#section-{}\" dir=\"auto\">{title}</a></li>",
            section.level,
            number + 1
        );
    }
    out.push_str("</ol>\n</nav>\n");
}

fn write_section(number: usize, section: &Section, out: &mut String) -> Result<(), PublishError> {
    let _ = write!(out, "<section id=\"section-{number}\"");
    let heading = if section.level == 1 { "h2" } else { "h3" };
    match &section.title {
        Some(title) => {
            let _ = writeln!(out, " aria-labelledby=\"heading-{number}\">");
            let _ = writeln!(out, "<{heading} id=\"heading-{number}\" dir=\"auto\">{}</{heading}>", escaped(title));
        }
        None => out.push_str(">\n"),
    }
    let arena = Arena::new();
    let options = tree::options();
    let root = tree::parse(&arena, &section.markdown, &options);
    let mut body = String::new();
    format_html(root, &options, &mut body).map_err(PublishError::Html)?;
    // Every section numbers its footnotes from 1; the section's number keeps their ids apart.
    out.push_str(&apart(&body, number));
    out.push_str("</section>\n");
    Ok(())
}

fn apart(body: &str, number: usize) -> String {
    if !body.contains("class=\"footnote") {
        return body.to_owned();
    }
    ["fn-", "fnref-"].iter().fold(body.to_owned(), |body, name| {
        body.replace(&format!("id=\"{name}"), &format!("id=\"s{number}-{name}"))
            .replace(&format!("href=\"#{name}"), &format!("href=\"#s{number}-{name}"))
    })
}

fn is_right_to_left(language: &str) -> bool {
    let main = language.split('-').next().unwrap_or_default().to_ascii_lowercase();
    matches!(main.as_str(), "ar" | "arc" | "dv" | "fa" | "he" | "iw" | "ku" | "ps" | "sd" | "ug" | "ur" | "yi")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
