//! The output node: assembles the document, renders each format as its own result, stores the files.

use std::time::Duration;

use bytes::Bytes;
use domain::{
    ExecutionId, Failure, FailureCode,
    flow::{Assembly, FileFormat},
};
use object_store::{ObjectStoreExt as _, path::Path};
use protocol::report::DeliverableRow;
use publish::{Document, Format, Meta, Rendered, SectionSource};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};

use super::{
    node::raw,
    shared::{Attempt, Broken, internal},
    tally::words,
};

/// Larger texts are in the files only, not in the result.
const RESULT_TEXT: usize = 64 << 10;
/// Larger documents are rendered on a thread of their own, so that no stream waits for them.
const RENDER_APART: usize = 64 << 10;
/// The first wait before storing a file again; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long one try may take.
const STORE_WITHIN: Duration = Duration::from_secs(60);

/// The execution's result: small, whatever the document's size.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    title: &'a str,
    formats: Vec<&'static str>,
    words: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sections: Option<Vec<SectionText<'a>>>,
}

#[derive(Serialize)]
struct SectionText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    text: &'a str,
}

impl Attempt {
    /// Makes the result and the files.
    pub(super) async fn output(&self, formats: &[FileFormat]) -> Result<(Box<RawValue>, Vec<DeliverableRow>), Broken> {
        if self.halt.is_ordered() {
            return Err(Broken::Halted);
        }
        let assembly = self
            .flow
            .assemble(&self.context)
            .map_err(|error| Broken::Failed(Failure::new(FailureCode::EngineMisconfigured, error.to_string())))?;
        let size: usize = assembly.parts.iter().map(|part| part.markdown.len()).sum();
        let formats: Vec<Format> = formats.iter().copied().map(format_of).collect();
        let make = move || {
            let document = document(assembly);
            let files = formats.into_iter().map(|format| (format, render(&document, format))).collect::<Vec<_>>();
            (document, files)
        };
        let (document, files) =
            if size <= RENDER_APART {
                make()
            } else {
                self.executor.shutdown.tasks.spawn_blocking(make).await.map_err(|error| {
                    Broken::Failed(internal("the document could not be rendered", &error.to_string()))
                })?
            };
        let mut deliverables = Vec::with_capacity(files.len());
        // For all files together: a store that is gone for good is not waited for once for each.
        let give_up = Instant::now() + self.executor.config.store_patience;
        for (format, rendered) in files {
            deliverables.push(self.deliver(format, rendered, give_up).await?);
        }
        Ok((result(&document, &deliverables)?, deliverables))
    }

    /// Stores one file; a format that fails does not fail the others.
    async fn deliver(
        &self,
        format: Format,
        rendered: Result<Rendered, String>,
        give_up: Instant,
    ) -> Result<DeliverableRow, Broken> {
        let row = DeliverableRow {
            format: format.as_str().to_owned(),
            name: format!("document.{}", format.as_str()),
            media_type: format.media_type().to_owned(),
            bytes: 0,
            object_key: None,
            error: None,
        };
        let file = match rendered {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(format = format.as_str(), error, "a format cannot be rendered");
                return Ok(DeliverableRow { error: Some("this format could not be rendered".to_owned()), ..row });
            }
        };
        let row = DeliverableRow {
            name: file.file_name,
            media_type: file.media_type.to_owned(),
            bytes: i64::try_from(file.bytes.len()).unwrap_or(i64::MAX),
            ..row
        };
        let key = object_key(self.grant.execution_id, self.grant.epoch, format);
        if self.store(&key, file.bytes.into(), give_up).await? {
            return Ok(DeliverableRow { object_key: Some(key), ..row });
        }
        Ok(DeliverableRow { error: Some("the file could not be stored".to_owned()), bytes: 0, ..row })
    }

    /// Tries at least once, and again until `give_up`; `false` when it was in vain.
    async fn store(&self, key: &str, bytes: Bytes, give_up: Instant) -> Result<bool, Broken> {
        let path = Path::from(key);
        let mut wait = RETRY_FIRST;
        loop {
            let stored = tokio::select! {
                biased;
                () = self.halt.ordered() => return Err(Broken::Halted),
                stored = timeout(STORE_WITHIN, self.executor.files.put(&path, bytes.clone().into())) => stored,
            };
            match stored {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(error)) => tracing::warn!(error = %service::chain(&error), "a file cannot be stored"),
                Err(_elapsed) => tracing::warn!("a file cannot be stored: the object store is silent"),
            }
            self.executor.metrics.store_failures.inc();
            if Instant::now() + wait > give_up {
                return Ok(false);
            }
            tokio::select! {
                () = self.halt.ordered() => return Err(Broken::Halted),
                () = sleep(wait) => {}
            }
            wait = (wait * 2).min(RETRY_LONGEST);
        }
    }
}

/// Where a file is. The epoch keeps a fenced attempt from writing over the files of the one that counts. The files of about a
/// minute share a folder, by the time in the id: a folder for each execution would cost a local disk more than the file.
fn object_key(execution: ExecutionId, epoch: i32, format: Format) -> String {
    let id = execution.uuid().simple().to_string();
    let minute = id.get(..8).unwrap_or_default();
    format!("executions/{minute}/{execution}.{epoch}.{}", format.as_str())
}

const fn format_of(format: FileFormat) -> Format {
    match format {
        FileFormat::Md => Format::Md,
        FileFormat::Html => Format::Html,
        FileFormat::Txt => Format::Txt,
        FileFormat::Json => Format::Json,
    }
}

fn document(assembly: Assembly) -> Document {
    let meta = Meta { subtitle: assembly.subtitle, author: assembly.author, language: Some(assembly.language) };
    let sections = assembly.parts.into_iter().map(|part| SectionSource {
        title: part.title,
        level: part.level,
        markdown: part.markdown,
    });
    publish::assemble(&assembly.title, meta, sections.collect())
}

fn render(document: &Document, format: Format) -> Result<Rendered, String> {
    publish::render(document, format).map_err(|error| service::chain(&error))
}

fn result(document: &Document, deliverables: &[DeliverableRow]) -> Result<Box<RawValue>, Broken> {
    let size: usize = document.sections.iter().map(|section| section.markdown.len()).sum();
    let made = deliverables.iter().filter(|row| row.error.is_none());
    let known = |name: &str| Format::ALL.into_iter().map(Format::as_str).find(|known| *known == name);
    let sections = document
        .sections
        .iter()
        .map(|section| SectionText { title: section.title.as_deref(), text: &section.markdown });
    raw(&Outcome {
        title: &document.title,
        formats: made.filter_map(|row| known(&row.format)).collect(),
        words: document.sections.iter().map(|section| words(&section.markdown)).sum(),
        sections: (size <= RESULT_TEXT).then(|| sections.collect()),
    })
}
