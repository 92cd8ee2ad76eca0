# Recipes for everyday work; `.ci/run` is the whole check and needs no just.

# Run a gateway with the built-in values.
run *ARGS:
    cargo run --release -- serve {{ARGS}}

# Format and lint.
check:
    cargo fmt --check
    cargo clippy --locked --features failpoints --all-targets -- -D warnings
    cargo clippy --locked --lib --bins -- -D warnings

# All tests, or those whose name contains a word: `just test matrix`.
test *FILTER:
    cargo test --locked --features failpoints {{FILTER}}

# Everything that can go wrong at once, for so many seconds, then the oracle; the seed gives the schedule.
# TOPOLOGY is embedded, broker or cluster; all of them, one after the other, if it is left out.
campaign SECONDS SEED TOPOLOGY="":
    @case "{{TOPOLOGY}}" in ""|embedded|broker|cluster) ;; *) echo "no topology {{TOPOLOGY}}"; exit 1;; esac
    SLUICEGATE_CAMPAIGN_SECONDS={{SECONDS}} SLUICEGATE_CAMPAIGN_SEED={{SEED}} \
        cargo test --locked --features failpoints --test cluster -- --nocapture --test-threads 1 campaign::{{TOPOLOGY}}

# The pictures of the console, taken anew.
screenshots:
    SLUICEGATE_SCREENSHOTS=docs/images cargo test --locked --features failpoints --test it in_a_real_browser

# Write the API's document as the code makes it now.
openapi:
    cargo run --locked --features failpoints -- openapi > target/openapi.json
    mv target/openapi.json docs/openapi.json

# Everything that has to pass before a commit.
ci:
    .ci/run

# What is released: an archive with a static program, its bill of materials, checksums. See docs/RELEASE.md.
release:
    .ci/release

# The figures of docs/PERFORMANCE.md.
bench:
    cargo bench --bench accept
    cargo bench --bench worker
    cargo bench --bench backlog
    cargo bench --bench broker
    cargo bench --bench postgres
    cargo bench --bench publish
    cargo bench --bench overload

# Every fuzzer for so long; needs a nightly compiler and cargo-fuzz. See fuzz/README.md.
fuzz SECONDS:
    fuzz/run {{SECONDS}}
