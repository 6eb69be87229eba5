//! The parts of `lekhika admin ..`.

use clap::{Subcommand, ValueEnum};

/// `lekhika admin engine ..`.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Lets it take submissions again.
    Enable {
        /// The engine, `eng_..` or its name.
        engine: String,
    },
    /// Takes no more submissions; what it has taken goes on. Reaches every gateway within 5 s.
    Disable {
        /// The engine, `eng_..` or its name.
        engine: String,
    },
}

/// `lekhika admin key ..`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes a key and shows it once.
    Create {
        /// The owner, `usr_..`.
        #[arg(long)]
        user: String,
        /// Bound to this copy of an engine, `uen_..`.
        #[arg(long)]
        user_engine: Option<String>,
        /// For people.
        #[arg(long, default_value = "")]
        name: String,
        /// An origin a browser may use it from, such as `https://shop.example`; may be given several times (none: any).
        #[arg(long = "origin")]
        origins: Vec<String>,
        /// When it ends, such as `2027-01-01T00:00:00Z` (none: never).
        #[arg(long)]
        expires: Option<String>,
    },
    /// Replaces a key and shows the new one once.
    Rotate {
        /// The key, `key_..`.
        id: String,
        /// How long the old one lives on, in hours.
        #[arg(long, default_value_t = 24)]
        grace_hours: u32,
    },
    /// Ends a key at once.
    Revoke {
        /// The key, `key_..`.
        id: String,
    },
}

/// What an admin token may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArgument {
    /// Everything.
    Owner,
    /// Everything but other admins.
    Admin,
    /// Runs the platform.
    Operator,
    /// Reads.
    Viewer,
}
