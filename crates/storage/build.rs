//! Notices changed migrations: embedded ones are compiled in, and a template database is named after their contents.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

fn main() -> std::io::Result<()> {
    let folder = Path::new("../../migrations");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> = Vec::new();
    for step in std::fs::read_dir(folder)? {
        let step = step?.path();
        if step.is_dir() {
            for file in std::fs::read_dir(step)? {
                files.push(file?.path());
            }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        file.hash(&mut hasher);
        std::fs::read(&file)?.hash(&mut hasher);
    }
    println!("cargo::rustc-env=MIGRATIONS_KEY={:016x}", hasher.finish());
    Ok(())
}
