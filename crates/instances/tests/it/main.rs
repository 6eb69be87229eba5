//! Private servers, really started.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod postgres;
mod rabbitmq;

/// A folder that a server's user can reach, whoever runs the tests.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("lekhika-test-{}", uuid::Uuid::new_v4().simple());
        Self(std::path::Path::new("/var/tmp").join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
