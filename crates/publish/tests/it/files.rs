//! The four formats of a good document.

use publish::{Document, Format, Meta, SectionSource, assemble, render};

use crate::{document, section, text};

const CHAPTER: &str = "# The Wall\n\nLook *closely*. See [the key](https://example.org/key).\n\n## Colours\n\n- green\n- grey, and\n  quite soft\n  1. one\n  2. two\n\n> Quoted words.\n\n```rust\n# not a heading\nlet a = 1 < 2;\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nA note.[^1]\n\n[^1]: At the end.\n";

fn sample() -> Document {
    let mut inner = section("A level below", "Text.");
    inner.level = 2;
    document(vec![
        section("The Wall", CHAPTER),
        inner,
        SectionSource { markdown: "Untitled end.".to_owned(), ..Default::default() },
    ])
}

#[test]
fn markdown() {
    insta::assert_snapshot!(text(&sample(), Format::Md), @r#"
    # Mosses \& \<Lichens\>

    *For \*everybody\**

    A. Writer

    ## The Wall

    Look *closely*. See [the key](https://example.org/key).

    ### Colours

    - green
    - grey, and
      quite soft
      1. one
      2. two

    > Quoted words.

    ```rust
    # not a heading
    let a = 1 < 2;
    ```

    | a | b |
    |---|---|
    | 1 | 2 |

    A note.[^1]

    [^1]: At the end.

    ### A level below

    Text.

    Untitled end.
    "#);
}

#[test]
fn plain_text() {
    insta::assert_snapshot!(text(&sample(), Format::Txt), @r#"
    Mosses & <Lichens>
    ==================

    For *everybody*

    A. Writer

    The Wall
    ========

    Look closely. See the key (https://example.org/key).

    Colours
    -------

    - green
    - grey, and quite soft
      1. one
      2. two

    > Quoted words.

        # not a heading
        let a = 1 < 2;

    a | b
    1 | 2

    A note.[1]

    [1] At the end.

    A level below
    -------------

    Text.

    Untitled end.
    "#);
}

#[test]
fn html() {
    let html = text(&sample(), Format::Html);
    let body = &html[html.find("<body>").unwrap()..];
    insta::assert_snapshot!(body, @r##"
    <body>
    <a class="skip" href="#text">Skip to the text</a>
    <header>
    <h1 dir="auto">Mosses &amp; &lt;Lichens&gt;</h1>
    <p class="subtitle" dir="auto">For *everybody*</p>
    <p class="author" dir="auto">A. Writer</p>
    </header>
    <nav aria-label="Contents">
    <h2>Contents</h2>
    <ol>
    <li class="level-1"><a href="#section-1" dir="auto">The Wall</a></li>
    <li class="level-2"><a href="#section-2" dir="auto">A level below</a></li>
    </ol>
    </nav>
    <main id="text">
    <section id="section-1" aria-labelledby="heading-1">
    <h2 id="heading-1" dir="auto">The Wall</h2>
    <p>Look <em>closely</em>. See <a href="https://example.org/key">the key</a>.</p>
    <h3>Colours</h3>
    <ul>
    <li>green</li>
    <li>grey, and
    quite soft
    <ol>
    <li>one</li>
    <li>two</li>
    </ol>
    </li>
    </ul>
    <blockquote>
    <p>Quoted words.</p>
    </blockquote>
    <pre><code class="language-rust"># not a heading
    let a = 1 &lt; 2;
    </code></pre>
    <table>
    <thead>
    <tr>
    <th>a</th>
    <th>b</th>
    </tr>
    </thead>
    <tbody>
    <tr>
    <td>1</td>
    <td>2</td>
    </tr>
    </tbody>
    </table>
    <p>A note.<sup class="footnote-ref"><a href="#s1-fn-1" id="s1-fnref-1" data-footnote-ref>1</a></sup></p>
    <section class="footnotes" data-footnotes>
    <ol>
    <li id="s1-fn-1">
    <p>At the end. <a href="#s1-fnref-1" class="footnote-backref" data-footnote-backref data-footnote-backref-idx="1" aria-label="Back to reference 1">↩</a></p>
    </li>
    </ol>
    </section>
    </section>
    <section id="section-2" aria-labelledby="heading-2">
    <h3 id="heading-2" dir="auto">A level below</h3>
    <p>Text.</p>
    </section>
    <section id="section-3">
    <p>Untitled end.</p>
    </section>
    </main>
    </body>
    </html>
    "##);
}

#[test]
fn json() {
    let value: serde_json::Value = serde_json::from_str(&text(&sample(), Format::Json)).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&value["sections"]).unwrap().replace(CHAPTER, ""), @r#"
    [
      {
        "level": 1,
        "markdown": "Look *closely*. See [the key](https://example.org/key).\n\n### Colours\n\n- green\n- grey, and\n  quite soft\n  1. one\n  2. two\n\n> Quoted words.\n\n```rust\n# not a heading\nlet a = 1 < 2;\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nA note.[^1]\n\n[^1]: At the end.",
        "title": "The Wall"
      },
      {
        "level": 2,
        "markdown": "Text.",
        "title": "A level below"
      },
      {
        "level": 1,
        "markdown": "Untitled end."
      }
    ]
    "#);
}

#[test]
fn equal_documents_give_equal_files() {
    for format in Format::ALL {
        assert_eq!(render(&sample(), format).unwrap(), render(&sample(), format).unwrap());
    }
}

#[test]
fn files_have_names_that_every_file_system_takes() {
    let name = |title: &str| render(&assemble(title, Meta::default(), Vec::new()), Format::Md).unwrap().file_name;

    assert_eq!(name("The Mosses: of/Walls?"), "the-mosses-of-walls.md");
    assert_eq!(name("../../etc/passwd"), "etc-passwd.md");
    assert_eq!(name("मॉस 苔 Ü"), "मॉस-苔-ü.md");
    assert_eq!(name("🌿"), "document.md");
    assert_eq!(name(" \u{0}\n "), "document.md");
    assert!(name(&"x".repeat(5_000)).len() <= 84);
}

#[test]
fn a_format_is_read_from_its_word() {
    for format in Format::ALL {
        assert_eq!(format.as_str().parse(), Ok(format));
    }
    assert!("epub".parse::<Format>().is_err());
}

#[test]
fn a_title_that_the_model_repeats_is_dropped_and_headings_move_below_it() {
    for repeated in
        ["# The Wall\n\nText.", "### **The wall**\nText.", "**The Wall**\n\nText.", "# Chapter 3: The Wall\n\nText."]
    {
        let document = document(vec![section("The Wall", repeated)]);
        assert_eq!(document.sections[0].markdown, "Text.", "{repeated}");
    }
    let document = document(vec![section("The Wall", "#### Deep\n\nText.\n\n##### Deeper")]);
    assert_eq!(document.sections[0].markdown, "### Deep\n\nText.\n\n#### Deeper");
}

#[test]
fn an_answer_that_is_one_fence_is_opened() {
    let document = document(vec![section("T", "```markdown\nText *here*.\n```")]);
    assert_eq!(document.sections[0].markdown, "Text *here*.");
}
