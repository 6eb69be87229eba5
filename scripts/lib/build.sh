# Builds with the one profile and selection that the tests use too, so that nothing is built twice. Source it.
# shellcheck shell=bash

target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$root/target}"; }

build_workspace() {
  cargo build --manifest-path "$root/Cargo.toml" --workspace --all-targets --locked --quiet
}
