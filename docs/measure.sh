#!/usr/bin/env bash
# Programs natively and under `portolan run`: the fastest of RUNS runs of each (5 unless said otherwise), and the ratio.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-5}
portolan=target/release/portolan
cargo build --release --quiet
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc -O2 -o "$work/compute" tests/guest/compute.c
head -c 50000000 /dev/urandom > "$work/noise"
head -c 15000000 /dev/urandom | base64 > "$work/words"

# The fastest run of a command, in microseconds.
fastest() {
    local best= start end
    for ((run = 0; run < runs; run++)); do
        start=${EPOCHREALTIME/./}
        "$@" > /dev/null
        end=${EPOCHREALTIME/./}
        if [[ -z $best || $((end - start)) -lt $best ]]; then
            best=$((end - start))
        fi
    done
    echo "$best"
}

printf '%-44s %12s %12s %8s\n' program native portolan ratio
compare() {
    local name=$1 native guest
    shift
    native=$(fastest "$@")
    guest=$(fastest "$portolan" run -- "$@")
    awk -v name="$name" -v native="$native" -v guest="$guest" \
        'BEGIN { printf "%-44s %9.1f ms %9.1f ms %8.2f\n", name, native / 1000, guest / 1000, guest / native }'
}

compare 'CPU-bound, warm (compute 30)' "$work/compute" 30
if command -v python3 > /dev/null; then
    compare 'python3 -c pass' "$(python3 -c 'import sys; print(sys.executable)')" -c pass
fi
compare 'sha256sum of 50 MB' sha256sum "$work/noise"
compare 'sort --parallel=1 of 20 MB' sort --parallel=1 "$work/words"
compare 'cat /proc/self/maps' cat /proc/self/maps
