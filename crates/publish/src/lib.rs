//! Makes files of finished sections: Markdown, HTML, text and JSON.
