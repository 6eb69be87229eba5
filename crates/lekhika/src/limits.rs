//! What the operating system lets a process do.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files that are enough for a hundred thousand streams; more only costs servers that make tables of that size.
const OPEN_FILES: u64 = 131_072;

/// Lets this process and what it starts have as many open files as the administrator allows: each stream is a connection, and the
/// usual limit of 1,024 is meant for programs that do not know better.
pub fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(OPEN_FILES);
        if soft < wanted {
            // Refused or not: the process runs with what it has.
            let _unchanged = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_lowered() {
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();

        raise_open_files();

        let (after, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(after, before.max(hard.min(OPEN_FILES)));
    }
}
