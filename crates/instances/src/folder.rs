//! A folder of one owner, such as the folder of a server: locked by its owner, cleaned up after one that was killed.

use crate::{
    InstanceError,
    error::os,
    leftovers::{MARK, Reach, end_all_in, kill_all_in},
};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A folder that belongs to this process for as long as the value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    temporary: bool,
    _lock: Flock<File>,
}

impl Folder {
    /// The given folder, made if need be.
    ///
    /// # Errors
    /// [`InstanceError::InUse`] when another living process owns it.
    pub fn own(path: &Path) -> Result<Self, InstanceError> {
        Self::persistent(path)
    }

    /// A new folder that vanishes with the value. When this process is killed, the next [`reap`] removes it, and ends what
    /// is [marked](Self::mark) with it or with a folder below it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary(kind: &str) -> Result<Self, InstanceError> {
        let base = base()?;
        // Nobody may clean up between the making of the folder and its lock.
        let _making = lock(&base, FlockArg::LockExclusive)?;
        let random: String = uuid::Uuid::new_v4().simple().to_string().chars().take(10).collect();
        let path = base.join(format!("{kind}-{random}"));
        make(&path, 0o755)?;
        let lock = lock(&path, FlockArg::LockExclusiveNonblock)?.ok_or_else(|| InstanceError::InUse(path.clone()))?;
        Ok(Self { path, temporary: true, _lock: lock })
    }

    /// The one or the other.
    pub(crate) fn open(path: Option<&Path>, kind: &str) -> Result<Self, InstanceError> {
        match path {
            Some(path) => Self::persistent(path),
            None => Self::temporary(kind),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The environment variable that makes a process one of this folder's.
    #[must_use]
    pub fn mark(&self) -> (&'static str, &Path) {
        (MARK, &self.path)
    }

    /// Kills the processes with this folder's mark: we hold the lock, so whoever started them is dead, or they are ours.
    pub fn kill_marked(&self) {
        kill_all_in(&self.path, Reach::Here);
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    fn persistent(path: &Path) -> Result<Self, InstanceError> {
        make(path, 0o755)?;
        let path = path.canonicalize().map_err(os(format!("find {}", path.display())))?;
        let lock = lock(&path, FlockArg::LockExclusiveNonblock)?.ok_or_else(|| InstanceError::InUse(path.clone()))?;
        Ok(Self { path, temporary: false, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::debug!(%error, path = %self.path.display(), "a temporary folder is left for the next run");
        }
    }
}

/// Ends the processes and removes the temporary folders whose owners are dead. Those of living owners are not touched.
/// Returns how many there were.
///
/// # Errors
/// When the folder of temporary folders cannot be read.
pub fn reap() -> Result<usize, InstanceError> {
    let base = base()?;
    let _looking = lock(&base, FlockArg::LockExclusive)?;
    let mut all = 0;
    loop {
        // What was just ended may have owned folders itself: a test runner owns servers, its tests own platforms.
        let reaped = sweep(&base)?;
        all += reaped;
        if reaped == 0 {
            return Ok(all);
        }
    }
}

fn sweep(base: &Path) -> Result<usize, InstanceError> {
    let mut reaped = 0;
    for entry in fs::read_dir(base).map_err(os(format!("list {}", base.display())))?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        // One that vanished meanwhile, or cannot be opened, must not keep the others from being looked at.
        let Ok(Some(_ours)) = lock(&path, FlockArg::LockExclusiveNonblock) else { continue };
        end_all_in(&path, Reach::Below);
        if fs::remove_dir_all(&path).is_ok() {
            reaped += 1;
        }
    }
    Ok(reaped)
}

/// Where temporary folders are: one place per user, short (a socket's path is at most 107 bytes) and reachable for the
/// users that servers run as.
fn base() -> Result<PathBuf, InstanceError> {
    let root = if Path::new("/var/tmp").is_dir() { "/var/tmp" } else { "/tmp" };
    let base = Path::new(root).join(format!("lekhika-{}", geteuid()));
    make(&base, 0o711)?;
    Ok(base)
}

fn make(path: &Path, mode: u32) -> Result<(), InstanceError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(os(format!("make the folder {}", path.display())))
}

/// `None` when another process holds it.
fn lock(folder: &Path, how: FlockArg) -> Result<Option<Flock<File>>, InstanceError> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(os(format!("open {}", path.display())))?;
    let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(os(format!("lock {}", path.display()))(errno.into())),
    }
}
