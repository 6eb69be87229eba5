//! The scripts: what they find, what they say, and what they leave behind.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::deploy_files::{read, root};

/// Runs a piece of bash with the functions of `scripts/lib`.
fn bash(script: &str, folder: &Path) -> Output {
    let lib = root().join("scripts/lib");
    let whole = format!(
        "set -euo pipefail\nroot={folder}\nsource {lib}/install.sh\nsource {lib}/build.sh\n{script}",
        folder = folder.display(),
        lib = lib.display()
    );
    Command::new("bash").arg("-c").arg(whole).env_remove("CARGO_TARGET_DIR").current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn program(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/bash\n{body}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn all() -> Vec<PathBuf> {
    let folders = ["scripts", "scripts/lib"].map(|folder| std::fs::read_dir(root().join(folder)).unwrap());
    folders.into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

#[test]
fn every_script_is_bash_that_can_be_read() {
    let scripts = all();
    assert!(scripts.len() > 8, "{scripts:?}");
    for script in scripts {
        let read = Command::new("bash").arg("-n").arg(&script).output().unwrap();
        assert!(read.status.success(), "{}: {}", script.display(), text(&read.stderr));
        let executable = script.metadata().unwrap().permissions().mode() & 0o111 != 0;
        let sourced = script.extension().is_some_and(|extension| extension == "sh");
        assert_ne!(executable, sourced, "{}", script.display());
    }
}

#[test]
fn every_recipe_is_one_script() {
    let justfile = read("justfile");
    let recipes = justfile.lines().filter(|line| line.starts_with("    "));
    let mut count = 0;
    for line in recipes {
        let script = line.split_whitespace().next().unwrap();
        assert!(script.starts_with("scripts/") && root().join(script).is_file(), "{line}");
        count += 1;
    }
    let names = justfile.lines().filter(|line| line.contains(':') && !line.starts_with([' ', '#'])).count();
    assert_eq!((count, names), (7, 7), "dev, test, check, bench, up, down, migrate");
}

#[test]
fn what_was_built_is_found_wherever_cargo_is_told_to_put_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join(".cargo")).unwrap();
    std::fs::create_dir_all(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join(".cargo/config.toml"), "[build]\ntarget-dir = 'elsewhere'\n").unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), "[package]\nname = 'x'\nversion = '0.1.0'\n").unwrap();
    std::fs::write(folder.path().join("src/lib.rs"), "").unwrap();

    let found = bash("target_dir", folder.path());

    let expected = folder.path().canonicalize().unwrap().join("elsewhere");
    assert_eq!(text(&found.stdout), expected.display().to_string(), "{}", text(&found.stderr));
}

#[test]
fn a_missing_tool_is_named() {
    let folder = tempfile::tempdir().unwrap();
    program(folder.path(), "cargo", "[[ $1 != clippy && $1 != fmt ]]");
    let path = folder.path().display();

    let lints = bash(&format!("PATH={path} need_lints"), folder.path());
    let compiler = bash(
        &format!("policy=$root/none; can_install() {{ false; }}; PATH={path}; hash -r; need_cargo"),
        folder.path(),
    );
    let rust = bash("policy=$root/none; HOME=$root CARGO_HOME='' PATH=/nowhere; hash -r; need_cargo", folder.path());

    assert!(text(&lints.stderr).contains("rustfmt clippy missing"), "{}", text(&lints.stderr));
    assert!(text(&compiler.stderr).contains("a C compiler (cc) is missing"), "{}", text(&compiler.stderr));
    assert!(text(&rust.stderr).contains("cargo is missing"), "{}", text(&rust.stderr));
    assert!([lints, compiler, rust].iter().all(|output| !output.status.success()));
}

#[test]
fn no_policy_against_services_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy-rc.d");
    let with = |script: &str| bash(&format!("policy=$root/policy-rc.d; PATH=$root:$PATH; {script}"), folder.path());

    program(folder.path(), "apt-get", "grep -q 'exit 101' \"$(dirname \"$0\")/policy-rc.d\"");
    let installed = with("apt_install something");
    assert!(installed.status.success(), "services are forbidden meanwhile: {}", text(&installed.stderr));
    assert!(!policy.exists());

    program(folder.path(), "apt-get", "kill -TERM $PPID");
    assert!(!with("apt_install something").status.success());
    assert!(!policy.exists(), "a terminated run cleans up");

    program(folder.path(), "apt-get", "kill -KILL $PPID");
    with("apt_install something");
    assert!(policy.exists(), "a killed one cannot");
    assert!(with("sweep_policy").status.success());
    assert!(!policy.exists(), "but the next one does");

    std::fs::write(&policy, "#!/bin/sh\nexit 0\n").unwrap();
    program(folder.path(), "apt-get", "true");
    assert!(with("sweep_policy; apt_install something").status.success());
    assert!(policy.exists(), "one that is not ours stays");
}
