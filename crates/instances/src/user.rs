//! Whom a server runs as: Postgres refuses root, and RabbitMQ should not be root either.

use crate::{InstanceError, error::os};
use nix::unistd::{Gid, Uid, User, chown, geteuid};
use std::{
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

/// The user servers run as.
#[derive(Debug, Clone)]
pub(crate) struct RunAs {
    /// `None`: ourselves.
    other: Option<(String, Uid, Gid)>,
}

impl RunAs {
    /// Ourselves; when we are root, the first of these users that exists.
    pub(crate) fn unprivileged(candidates: &[&str]) -> Result<Self, InstanceError> {
        if !geteuid().is_root() {
            return Ok(Self { other: None });
        }
        let found = candidates.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = found.ok_or(InstanceError::NoUser)?;
        Ok(Self { other: Some((user.name, user.uid, user.gid)) })
    }

    /// Makes the command run as this user.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Some((_, uid, gid)) = &self.other {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
    }

    /// Gives the folder or file itself to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<(), InstanceError> {
        let Some((name, uid, gid)) = &self.other else { return Ok(()) };
        let given = chown(path, Some(*uid), Some(*gid)).map_err(std::io::Error::from);
        given.map_err(os(format!("give {} to the user `{name}`", path.display())))
    }

    /// Checks that every parent of the folder lets this user pass.
    pub(crate) fn check_reach(&self, folder: &Path) -> Result<(), InstanceError> {
        let Some((name, uid, gid)) = &self.other else { return Ok(()) };
        for parent in folder.ancestors().skip(1) {
            let meta = parent.metadata().map_err(os(format!("look at {}", parent.display())))?;
            let bit = if meta.uid() == uid.as_raw() {
                0o100
            } else if meta.gid() == gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if meta.mode() & bit == 0 {
                let (user, folder, blocked) = (name.clone(), folder.to_owned(), parent.to_owned());
                return Err(InstanceError::Unreachable { user, folder, blocked });
            }
        }
        Ok(())
    }
}
