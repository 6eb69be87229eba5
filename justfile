# Shortcuts; `just` is not required, each is one script.

# The whole platform in one process, with the sample.
dev *arguments:
    scripts/dev {{arguments}}

# Format, lints and every test.
test *arguments:
    scripts/test {{arguments}}

# Format and lints only.
check:
    scripts/test --check

# The benchmark.
bench *arguments:
    scripts/bench {{arguments}}

# The distributed layout in containers.
up *arguments:
    scripts/compose up {{arguments}}

# Stops it.
down *arguments:
    scripts/compose down {{arguments}}

# Brings the database of LEKHIKA_DATABASE_URL to the present schema.
migrate *arguments:
    scripts/migrate {{arguments}}
