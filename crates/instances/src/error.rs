//! Why a private server does not run.

use std::{io, path::PathBuf};

/// Each says what was attempted and, where a person can help, how.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The server is not installed.
    #[error("find {what}: install the package `{package}`, or set {variable} to the folder of its programs")]
    NotInstalled {
        /// What is missing.
        what: &'static str,
        /// Debian's package.
        package: &'static str,
        /// The variable that the callers read.
        variable: &'static str,
    },
    /// Another living process uses the folder.
    #[error("lock the folder {0}: another process is using it; stop that one or choose another folder")]
    InUse(PathBuf),
    /// We are root, the server must not be, and its user cannot reach the folder.
    #[error(
        "let the user `{user}` reach {folder}: {blocked} is closed to it; choose a folder elsewhere, such as below \
         /var/lib or /var/tmp"
    )]
    Unreachable {
        /// Who should reach it.
        user: String,
        /// The folder.
        folder: PathBuf,
        /// The parent that is closed.
        blocked: PathBuf,
    },
    /// There is no unprivileged user to run as.
    #[error("find an unprivileged user (`postgres`, `rabbitmq` or `nobody`) to run a server as")]
    NoUser,
    /// A file, folder or process of the operating system.
    #[error("{what}")]
    Os {
        /// What was attempted.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error; its last lines are given.
    #[error("run {program}: it failed\n{output}")]
    Failed {
        /// Which program.
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// It did not become ready, or did not end, in time.
    #[error("wait for {what}: not within {seconds} s\n{output}")]
    Slow {
        /// What was awaited.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of its log.
        output: String,
    },
}

pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> InstanceError {
    let what = what.into();
    move |source| InstanceError::Os { what, source }
}
