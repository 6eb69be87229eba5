# Builds with the one profile and selection that the tests use too, so that nothing is built twice. Source it.
# shellcheck shell=bash

# Where cargo puts what it builds: it may be configured in many places, so cargo is asked.
target_dir() {
  cargo metadata --manifest-path "$root/Cargo.toml" --format-version 1 --no-deps |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

build_workspace() {
  cargo build --manifest-path "$root/Cargo.toml" --workspace --all-targets --locked --quiet
}
