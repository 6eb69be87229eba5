//! Private servers, really started.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod folder;
mod postgres;
mod rabbitmq;

/// A folder to be kept between starts. Like its servers, it goes with the test, or with the next run after a killed one.
struct Folder(std::path::PathBuf, #[expect(dead_code, reason = "removes the folder")] instances::Folder);

impl Folder {
    fn new() -> Self {
        let owner = instances::Folder::temporary("test").unwrap();
        Self(owner.path().join("kept"), owner)
    }
}
