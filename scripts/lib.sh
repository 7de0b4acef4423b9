# Shared by scripts/test and scripts/full; sourced, not run.
# Every function says nothing when all is well. A command that fails shows its whole output.
# `set -e` does not reach into what `step` runs, so functions for it chain with `&&`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

say() { printf '%s\n' "$*"; }

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND...: runs the command, shows its time, and its output only if it fails.
step() {
    local name=$1 start=$SECONDS log
    shift
    log=$(mktemp -p "$logs")
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        fail "$name"
    fi
    printf '%-28s %4ss\n' "$name" $((SECONDS - start))
}

# suite NAME COMMAND...: as step, but also shows the summary lines of cargo test.
suite() {
    local name=$1 start=$SECONDS log status=0
    shift
    log=$(mktemp -p "$logs")
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status -ne 0 ]; then
        cat "$log" >&2
    fi
    printf '%-28s %4ss\n' "$name" $((SECONDS - start))
    sed -nE '/^ *(Running|Doc-tests) /{s/^ *(Running )?//;s/ \(.*\)$//;p};/^test result:/p' "$log"
    summary "$log"
    case $status in
        0) ;;
        124) fail "$name: took longer than its limit" ;;
        *) fail "$name" ;;
    esac
}

# The sum of all `test result:` lines of a log.
summary() {
    awk '/^test result:/ {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) passed += $i
            if ($(i + 1) ~ /^failed/) failed += $i
            if ($(i + 1) ~ /^ignored/) ignored += $i
        }
    } END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$1"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        fail "this needs root: $*"
    fi
}

# packages NAME...: installs packages of the distribution.
packages() {
    command -v apt-get >/dev/null || fail "please install: $*"
    as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}

need_linker() {
    command -v cc >/dev/null || step "install a C linker" packages build-essential
}

need_component() {
    cargo "${1#cargo-}" --version >/dev/null 2>&1 || step "install $2" rustup component add "$2"
}

make_venv() {
    rm -rf .venv
    python3 -m venv .venv && return
    rm -rf .venv
    packages python3-venv && python3 -m venv .venv
}

fill_venv() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" &&
        cp "$requirements" .venv/installed.txt
}

# A private virtual environment with the foreign peers' packages, made when missing or outdated.
need_python() {
    requirements=patterns/tests/py/requirements.txt
    command -v python3 >/dev/null || step "install Python" packages python3 python3-venv
    .venv/bin/python -m pip --version >/dev/null 2>&1 || step "virtual environment" make_venv
    if ! cmp -s "$requirements" .venv/installed.txt ||
        ! .venv/bin/python -c 'import numpy, zmq' 2>/dev/null; then
        step "pyzmq and NumPy" fill_venv
    fi
    export ZRING_TEST_PYTHON=$root/.venv/bin/python
}

# need_nightly: the nightly toolchain, for the sanitizers and the fuzzer.
need_nightly() {
    cargo +nightly --version >/dev/null 2>&1 ||
        step "install nightly" rustup toolchain install nightly --profile minimal
}

# need_program NAME COMMAND...: runs the command when the program is missing.
need_program() {
    local program=$1
    shift
    command -v "$program" >/dev/null || step "install $program" "$@"
    command -v "$program" >/dev/null || fail "$program is still missing"
}

# A browser for the test that opens a report, under any of the names that tests/html.rs knows.
need_chromium() {
    local name
    if [ -n "${CHROMIUM:-}" ]; then
        command -v "$CHROMIUM" >/dev/null || fail "CHROMIUM names no program: $CHROMIUM"
        return
    fi
    for name in chromium-headless-shell chromium chromium-browser google-chrome-stable google-chrome chrome; do
        command -v "$name" >/dev/null && return
    done
    # Without the desktop's parts where the distribution splits it.
    step "install Chromium" install_chromium
}

install_chromium() {
    packages --no-install-recommends chromium-headless-shell ||
        packages --no-install-recommends chromium || packages chromium-browser
}
