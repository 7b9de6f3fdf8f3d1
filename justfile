# The only door: every task of this project is a recipe here, and CI calls the same ones.

# `just` itself may be where only ./justw finds it.
just := quote(just_executable())

export RUSTDOCFLAGS := "-D warnings"

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes.
default:
    @{{ just }} --list

# Build and run the whole product on embedded defaults.
serve *args: (needs "cargo" "https://rustup.rs") (needs "npm" "apt-get install npm (it brings the embedded engine)")
    cargo build --release --locked
    "${CARGO_TARGET_DIR:-target}/release/flexflow" engine install
    exec "${CARGO_TARGET_DIR:-target}/release/flexflow" serve {{ args }}

# Install what the tests need and run all of them.
test *args: (needs "cargo" "https://rustup.rs") (needs "npm" "apt-get install npm (it brings the embedded engine)") postgres chromium golang
    @{{ just }} timed build cargo build --locked --tests --bins
    @{{ just }} timed engine "${CARGO_TARGET_DIR:-target}/debug/flexflow" engine install
    @{{ just }} timed kafka {{ just }} kafka
    @{{ just }} timed k6 {{ just }} k6
    @{{ just }} timed unit cargo test --locked --lib --bins -- {{ args }}
    @{{ just }} timed integration cargo test --locked --test it -- {{ args }}

# What a change must pass before it lands, besides the tests.
check:
    @{{ just }} timed fmt cargo fmt --check
    @{{ just }} timed clippy cargo clippy --locked --all-targets -- -D warnings
    @{{ just }} timed web {{ just }} web
    @{{ just }} timed doc cargo doc --locked --no-deps --document-private-items
    @if command -v cargo-deny >/dev/null; then {{ just }} timed deny cargo deny --offline check licenses bans sources; else echo "deny: cargo-deny is not installed, skipped (cargo install cargo-deny)"; fi

# Measure everything, in about ten minutes, or one of: short, parse, transform, single, bulk, visible, steady, catch-up, stages, reprocess, kafka, web.
# The table it prints belongs into benches/RESULTS.md.
bench name="all" *args:
    cargo build --release --locked
    "${CARGO_TARGET_DIR:-target}/release/flexflow" engine install
    cargo bench --locked --bench flexflow -- {{ name }} {{ args }}

# Long campaigns: crash rounds and simulator seeds beyond what CI runs.
soak rounds="100" seeds="100000":
    cargo build --locked --tests --bins
    FLEXFLOW_TEST_CRASH_ROUNDS={{ rounds }} cargo test --locked --test it -- --nocapture crash killed_at_random
    FLEXFLOW_TEST_INVOICE_EVENTS=1000000 cargo test --locked --test it -- --nocapture metering::invoice
    FLEXFLOW_TEST_RAW_EVENTS=5000000 cargo test --locked --test it -- --nocapture six_months_of_raw_events
    FLEXFLOW_TEST_POISON_RECORDS=1000000 cargo test --locked --test it -- --nocapture poison_and_good_records_for_a_long_while
    FLEXFLOW_SIM_SEEDS={{ seeds }} cargo test --locked --lib -- --nocapture simulator group::core::sim

# The runbook's stress test of capture, against the server that runs (see scripts/stress).
stress-capture *args: k6
    @scripts/stress capture {{ args }}

# The runbook's stress test of questions.
stress-query *args: k6
    @scripts/stress query {{ args }}

# Start or stop the parts as containers.
up:
    docker compose up --detach --build

down:
    docker compose down

# Fetch the Kafka that the tests start and Prometheus's promtool; a JDK and Maven are installed where that is allowed.
[private]
kafka:
    @if ! { command -v java && command -v mvn; } >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends default-jdk-headless maven; fi
    for version in 4.1.1 2.8.2 3.9.1 4.2.0; do scripts/kafka fetch --version "$version"; done
    scripts/promtool --version >/dev/null

# Grafana's k6 for the stress tests, built from its Go module into the user's cache.
[private]
k6: (needs "go" "apt-get install golang-go, or https://go.dev/dl (k6 is built from its Go module)")
    @scripts/k6 version >/dev/null

# The tests start a PostgreSQL of their own, from Debian's package.
[private]
postgres:
    @ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq postgresql; } || { echo "PostgreSQL is needed: apt-get install postgresql" >&2; exit 1; }

# The tests of the page drive a real browser.
[private]
chromium:
    @command -v chromedriver >/dev/null || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; } || { echo "Chromium and its driver are needed: apt-get install chromium chromium-driver" >&2; exit 1; }

# The types of the page's modules; the checker is kept outside of the tree.
[private]
web: (needs "npm" "apt-get install npm")
    @mkdir -p "$HOME/.cache/flexflow/web" && cp scripts/web/package.json scripts/web/package-lock.json "$HOME/.cache/flexflow/web/"
    @cd "$HOME/.cache/flexflow/web" && { cmp -s package-lock.json installed.json || { npm ci --silent --no-audit --no-fund --ignore-scripts >&2 && cp package-lock.json installed.json; }; }
    "$HOME/.cache/flexflow/web/node_modules/.bin/tsc" --project web/tsconfig.json

# The stress tests need Go, which builds k6.
[private]
golang:
    @command -v go >/dev/null || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq golang-go; } || { echo "Go is needed: apt-get install golang-go, or https://go.dev/dl" >&2; exit 1; }

[private]
needs tool cure:
    @command -v {{ tool }} >/dev/null || { echo "{{ tool }} is needed: {{ cure }}" >&2; exit 1; }

[private]
timed name +command:
    @start=$SECONDS; {{ command }}; echo "{{ name }}: $((SECONDS - start)) s"
