#!/usr/bin/env bash
# Compile each libFuzzer harness tests/fuzz/fuzz_*.c with ASan and UBSan, and run it for a while.
#
#     FUZZ_SECONDS=300 scripts/fuzz.sh [NAME...]        names of harnesses; all without any
#
# A corpus grows under build/fuzz/corpus; seeds are tests/fuzz/seeds/NAME where that exists,
# else the small captures of examples/ and ../shared/pcaps.  An input that crashes is kept under
# build/fuzz/crashes, shown, and fails the run.  Exit status 3: no clang with libFuzzer here.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh
seconds=${FUZZ_SECONDS:-10}
jobs=${FUZZ_JOBS:-$(nproc)}
out=build/fuzz
mkdir -p "$out/bin" "$out/crashes" "$out/captures"

if ! can_fuzz; then
    say "fuzzing skipped: no clang with libFuzzer and its sanitizers (Debian: clang libclang-rt-14-dev)"
    exit 3
fi
clang=$(find_clang)

find examples ../shared/pcaps -name '*.pcap*' ! -name '*.json' -size -64k \
    -exec cp -nt "$out/captures" {} + 2>/dev/null

harness() {                 # harness NAME: compile, run, one line of result
    local name=$1 corpus=$out/corpus/$1 log=$LOGS/$1.log seeds=tests/fuzz/seeds/$1 runs
    [ -d "$seeds" ] || seeds=$out/captures
    mkdir -p "$corpus"
    if ! "$clang" -std=gnu11 -g -O1 -fno-omit-frame-pointer -DFLOWOS_DEBUG=1 -Iflowos/core -Idecoders \
            -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
            "tests/fuzz/$name.c" -o "$out/bin/$name" >"$log" 2>&1; then
        say "$name FAILED to compile:"
        tail -n 30 "$log"
        return 1
    fi
    if ! timeout $((seconds * 2 + 600)) "$out/bin/$name" -max_total_time="$seconds" -timeout=60 \
            -rss_limit_mb=2048 -artifact_prefix="$out/crashes/$name-" \
            "$corpus" "$seeds" >"$log" 2>&1 </dev/null; then
        say "$name FAILED; the end of $log:"
        tail -n 60 "$log"
        return 1
    fi
    runs=$(grep -oE '^Done [0-9]+ runs' "$log" | grep -oE '[0-9]+')
    say "$name ok: ${runs:-?} inputs in $seconds s"
}

names=("$@")
[ $# -gt 0 ] || for file in tests/fuzz/fuzz_*.c; do
    [ -e "$file" ] && names+=("$(basename "$file" .c)")
done
status=0 passed=0 failed=0
if [ ${#names[@]} -eq 0 ]; then
    say "no harness tests/fuzz/fuzz_*.c"
    exit 1
fi

# At most `jobs` at a time, each writing to a file of its own so that lines do not mix.
pids=()
collect() {                 # wait for the oldest harness that runs, show its result
    if wait "${pids[0]%:*}"; then passed=$((passed + 1)); else failed=$((failed + 1)); status=1; fi
    cat "$LOGS/${pids[0]#*:}.result"
    pids=("${pids[@]:1}")
}
for name in "${names[@]}"; do
    [ ${#pids[@]} -ge "$jobs" ] && collect
    harness "$name" >"$LOGS/$name.result" 2>&1 &
    pids+=("$!:$name")
done
while [ ${#pids[@]} -gt 0 ]; do collect; done
say "fuzz: $passed passed, $failed failed"
exit "$status"
