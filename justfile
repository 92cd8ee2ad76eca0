# Recipes for everyday work; `.ci/run` is the whole check and needs no just.

# Run a gateway with the built-in values.
run *ARGS:
    cargo run --release -- serve {{ARGS}}

# Format and lint.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# All tests.
test:
    cargo test --locked

# Everything that has to pass before a commit.
ci:
    .ci/run

# The figures of docs/PERFORMANCE.md.
bench:
    cargo bench --bench accept
    cargo bench --bench worker
    cargo bench --bench backlog
    cargo bench --bench broker
    cargo bench --bench postgres
    cargo bench --bench publish
