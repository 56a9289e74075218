#!/usr/bin/env bash
# Everything that `make test` checks: the tests on the release build, then short rounds of
# them under AddressSanitizer with UBSan and under ThreadSanitizer, then each fuzz harness.
#
# The checked trees compile and run, quietly, while the first round runs, on the core that it leaves idle; what they said
# is shown behind it.  AddressSanitizer's round comes in two halves, for two cores.  All rounds run whatever came of the others.  The last line is the sum: N passed, N failed, N skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh
# What a sanitizer can add nothing to stays out.
CHECKED=(-q -m 'not slow and not live and not soak')
UNCHECKED='test_(docs|layers|packaging|migration.*|allocation.*|balancing_page|offload_page|parity|daemon.*|man|top|metrics)\.py'
# A round that hangs ends as if by Ctrl-C, so that it tells where.  Half an hour is much, but where others compute
# beside it a round has taken that; which test hangs is in its log after ten minutes (faulthandler_timeout).
LIMIT=${ROUND_SECONDS:-3600}
names=() results=() times=() passed=0 failed=0 skipped=0

count() { grep -oE "[0-9]+ $2" <<<"$1" | tail -n 1 | grep -oE '[0-9]+' || echo 0; }

# attempt NAME COMMAND...: run it; what it says goes to its log, its status and seconds to a file beside that.
attempt() {
    local name=$1 log=$LOGS/round-$1.log start=$SECONDS
    shift
    rm -f "$log.status"
    timeout -s INT -k 60 "$LIMIT" "$@" >"$log" 2>&1 </dev/null
    say "$? $((SECONDS - start))" >"$log.status"
}

# end PID: end a process and all that it started.  A group would not do: `timeout` makes one of its own.
end() {
    local child children
    children=$(cat "/proc/$1/task/"*/children 2>/dev/null)
    kill "$1" 2>/dev/null
    for child in $children; do end "$child"; done
}

# account NAME: read the status and the counts off a round's log.
account() {
    local name=$1 log=$LOGS/round-$1.log status seconds closing word failures
    read -r status seconds <"$log.status"
    closing=$(grep -E '[0-9]+ (passed|failed|skipped|error)' "$log" | tail -n 1 | tr -d = | xargs)
    failures=$(($(count "$closing" failed) + $(count "$closing" error)))
    word=ok
    if [ "$status" = 3 ] && [ "$name" = fuzz ]; then
        word=SKIPPED closing=$(tail -n 1 "$log") skipped=$((skipped + 1))
    elif [ "$status" != 0 ]; then
        word=FAILED
        [ "$failures" -gt 0 ] || { failures=1; closing="ended with status $status; see $log"; }
    fi
    passed=$((passed + $(count "$closing" passed)))
    failed=$((failed + failures))
    skipped=$((skipped + $(count "$closing" skipped)))
    names+=("$name") results+=("$word $closing") times+=("$seconds s")
}

# follow NAME PID: show a round's log while it runs and when it has ended, and account for it.
follow() {
    printf '\n── %s\n' "$1"
    touch "$LOGS/round-$1.log"
    tail -n +1 -s 0.2 -f --pid="$2" "$LOGS/round-$1.log" 2>/dev/null
    wait "$2"
    account "$1"
}

# Every other test file, from the first or the second on.
half() { ls tests/test_*.py | grep -vE "$UNCHECKED" | awk "NR % 2 == $1"; }

checked() {
    nice scripts/sanitize.sh build asan >"$LOGS/checked-builds.log" 2>&1
    SHARD=1 attempt asan-1 nice scripts/sanitize.sh run asan "${CHECKED[@]}" $(half 1) &
    nice scripts/sanitize.sh build tsan >>"$LOGS/checked-builds.log" 2>&1
    SHARD=2 attempt asan-2 nice scripts/sanitize.sh run asan "${CHECKED[@]}" $(half 0)
    wait
}

rm -f "$LOGS"/round-*
trap 'for job in $(jobs -p); do end "$job"; done' EXIT       # who is interrupted leaves no round behind
attempt release .venv/bin/pytest -m 'not soak' &
release=$!
checked &
checked=$!
follow release "$release"
follow asan-1 "$checked"
follow asan-2 "$checked"
cat "$LOGS/checked-builds.log"
attempt tsan scripts/sanitize.sh test tsan -q -m threads &
follow tsan $!
attempt fuzz env FUZZ_SECONDS="${FUZZ_SECONDS:-10}" scripts/fuzz.sh &
follow fuzz $!

printf '\n── summary (%s s)\n' "$SECONDS"
for i in "${!names[@]}"; do
    printf '%-8s %s (%s)\n' "${names[$i]}" "${results[$i]}" "${times[$i]}"
done
printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
