# Shortcuts; `just` is not required, each is one script.

# The whole platform in one process, with the sample.
dev *arguments:
    scripts/dev {{arguments}}

# Format, lints and every test.
test *arguments:
    scripts/test {{arguments}}

# Format and lints only.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# The benchmark.
bench *arguments:
    scripts/bench {{arguments}}

# The distributed layout in containers.
up *arguments:
    docker compose up --build --detach {{arguments}}

# Stops it.
down *arguments:
    docker compose down {{arguments}}

# Brings the database of LEKHIKA_DATABASE_URL to the present schema.
migrate *arguments:
    cargo build --workspace --all-targets --locked --quiet
    "${CARGO_TARGET_DIR:-target}/debug/lekhika" migrate {{arguments}}
