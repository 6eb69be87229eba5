//! What a killed owner leaves behind.

use instances::Folder;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// A folder among the temporary ones that nobody owns.
fn abandoned(name: &str) -> std::path::PathBuf {
    let neighbour = Folder::temporary("test").unwrap();
    let path = neighbour.path().with_file_name(format!("test-{name}-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn the_folders_and_processes_of_dead_owners_are_ended_and_those_of_living_ones_are_not() {
    let living = Folder::temporary("test").unwrap();
    let (mark, path) = living.mark();
    let mut of_living = Command::new("sleep").arg("600").env(mark, path.join("inner")).spawn().unwrap();
    // The lock of these cannot be opened: they must not keep the others from being looked at.
    let strange: Vec<_> = (0..8).map(|_| abandoned("strange")).collect();
    for folder in &strange {
        std::fs::create_dir(folder.join("lock")).unwrap();
    }
    let dead = abandoned("dead");
    let start = |folder: std::path::PathBuf| {
        Command::new("sleep").arg("600").env(mark, folder).stdin(Stdio::null()).spawn().unwrap()
    };
    let (mut of_dead, mut below_dead) = (start(dead.clone()), start(dead.join("stack")));

    let reaped = instances::reap();

    for folder in &strange {
        std::fs::remove_dir_all(folder).unwrap();
    }
    assert!(reaped.unwrap() >= 1);
    assert!(!dead.exists() && living.path().exists());
    assert!(!of_dead.wait().unwrap().success() && !below_dead.wait().unwrap().success());
    assert!(matches!(of_living.try_wait(), Ok(None)));
    of_living.kill().unwrap();
    of_living.wait().unwrap();
}

/// As when a test runner was killed: its tests live on, and own folders.
#[test]
fn what_a_process_of_a_dead_owner_owned_is_ended_with_it() {
    let neighbour = Folder::temporary("test").unwrap();
    let (mark, _) = neighbour.mark();
    let dead = abandoned("dead");
    let owned: Vec<_> = (0..6).map(|_| abandoned("owned")).collect();
    let mut owners: Vec<_> = owned
        .iter()
        .map(|folder| {
            let mut owner = Command::new("flock");
            owner.arg(folder.join("lock")).args(["sh", "-c", "echo locked; exec sleep 600"]).env(mark, &dead);
            let mut owner = owner.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
            owner
        })
        .collect();

    instances::reap().unwrap();

    for owner in &mut owners {
        assert!(!owner.wait().unwrap().success());
    }
    assert!(!dead.exists() && owned.iter().all(|folder| !folder.exists()));
}

#[test]
fn only_the_marked_processes_of_a_folder_are_killed() {
    let folder = Folder::temporary("test").unwrap();
    let (mark, path) = folder.mark();
    let mut ours = Command::new("sleep").arg("600").env(mark, path).spawn().unwrap();
    let mut other = Command::new("sleep").arg("600").env(mark, format!("{}-other", path.display())).spawn().unwrap();

    folder.kill_marked();

    assert!(!ours.wait().unwrap().success());
    assert!(matches!(other.try_wait(), Ok(None)));
    other.kill().unwrap();
    other.wait().unwrap();
}
