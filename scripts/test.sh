#!/usr/bin/env bash
# Everything that `make test` checks: the tests on the release build, then short rounds of
# them under AddressSanitizer with UBSan and under ThreadSanitizer, then each fuzz harness.
#
# All rounds run whatever came of the others.  The checked trees compile while the first round
# runs, on the core that it leaves idle.  The last line is the sum: N passed, N failed, N skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh
# What a sanitizer can add nothing to stays out.
CHECKED=(-q -m 'not slow and not live and not soak'
         --ignore tests/test_docs.py --ignore tests/test_layers.py --ignore tests/test_packaging.py)
LIMIT=${ROUND_SECONDS:-1200}         # a round that hangs ends as if by Ctrl-C, so that it tells where
names=() results=() times=() passed=0 failed=0 skipped=0

count() { grep -oE "[0-9]+ $2" <<<"$1" | tail -n 1 | grep -oE '[0-9]+' || echo 0; }

# round NAME COMMAND...: run it, show its output, and read the counts off its closing line.
round() {
    local name=$1 log=$LOGS/round-$1.log start=$SECONDS status closing word failures
    shift
    printf '\n── %s\n' "$name"
    timeout -s INT -k 60 "$LIMIT" "$@" 2>&1 </dev/null | tee "$log"
    status=${PIPESTATUS[0]}
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
    names+=("$name") results+=("$word $closing") times+=("$((SECONDS - start)) s")
}

(nice scripts/sanitize.sh build asan; nice scripts/sanitize.sh build tsan) >"$LOGS/checked-builds.log" 2>&1 &
builds=$!
trap 'kill "$builds" 2>/dev/null' EXIT

round release .venv/bin/pytest -m 'not soak'
wait "$builds"
trap - EXIT
round asan scripts/sanitize.sh test asan "${CHECKED[@]}"
round tsan scripts/sanitize.sh test tsan -q -m threads
round fuzz env FUZZ_SECONDS="${FUZZ_SECONDS:-10}" scripts/fuzz.sh

printf '\n── summary (%s s)\n' "$SECONDS"
for i in "${!names[@]}"; do
    printf '%-8s %s (%s)\n' "${names[$i]}" "${results[$i]}" "${times[$i]}"
done
printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
