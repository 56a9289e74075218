#!/usr/bin/env bash
# Build a checked profile in a tree of its own, and run tests in it on the stock interpreter.
#
#     scripts/sanitize.sh build asan|tsan|debug|coverage
#     scripts/sanitize.sh test  asan|tsan|debug|coverage [pytest arguments]
#     scripts/sanitize.sh run   asan|tsan|debug|coverage [pytest arguments]      test, without looking for changes first
#
# The sanitizer's runtime is preloaded.  Reports go to build/log/PROFILE-report.*, or past pytest
# (which is told not to swallow them) to the terminal; any report fails the round.  A report of
# ASan or UBSan aborts, and faulthandler then says in which test.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh
step=${1:-} profile=${2:-}
case $step:$profile in
build:asan|build:tsan|build:debug|build:coverage|test:asan|test:tsan|test:debug|test:coverage) shift 2 ;;
run:asan|run:tsan|run:debug|run:coverage) shift 2 ;;
*) say "usage: scripts/sanitize.sh build|test|run asan|tsan|debug|coverage [pytest arguments]"; exit 2 ;;
esac
root=$PWD
python=$root/.venv/bin/python
tree=$root/build/$profile/tree
report=$root/$LOGS/$profile-report${SHARD:-}       # SHARD tells rounds apart that run at a time

library() { realpath "$("${CC:-gcc}" -print-file-name="$1")"; }

[ "$step" = run ] || "$python" scripts/mirror.py "$tree" || exit 1
# Cython makes the same C for both sanitizers.
if [ "$step" != run ] && [ "$profile" = tsan ] && [ ! -e "$tree/build" ] && [ -d build/asan/tree/build/cython ]; then
    mkdir "$tree/build" && cp -a build/asan/tree/build/cython "$tree/build/" && printf tsan >"$tree/build/profile"
fi
if [ "$step" != run ] && ! (cd "$tree" && FLOWOS_BUILD=$profile "$python" setup.py -q build_ext --inplace) \
        >"$LOGS/$profile-build.log" 2>&1 </dev/null; then
    say "the $profile build FAILED; the end of $LOGS/$profile-build.log:"
    tail -n 40 "$LOGS/$profile-build.log" | sed 's/^/    /'
    exit 1
fi
[ "$step" = build ] && exit 0

rm -f "$report".*
settings=(PYTHONPATH="$tree" FLOWOS_PROFILE="$profile" OPENBLAS_NUM_THREADS=1
          HYPOTHESIS_PROFILE="${HYPOTHESIS_PROFILE:-checked}")
launch=() quiet=(-p no:cacheprovider --capture=sys)
case $profile in
asan)   # libstdc++ too: else ASan cannot find the exceptions of C++ libraries loaded later
    settings+=(LD_PRELOAD="$(library libasan.so):$(library libubsan.so):$(library libstdc++.so.6)"
               PYTHONMALLOC=malloc
               ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:log_path=$report"
               UBSAN_OPTIONS="halt_on_error=1:abort_on_error=1:print_stacktrace=1") ;;
tsan)   # no random addresses: older runtimes refuse the layouts that newer kernels draw
    setarch "$(uname -m)" -R true 2>/dev/null && launch=(setarch "$(uname -m)" -R)
    settings+=(LD_PRELOAD="$(library libtsan.so)" PYTHONMALLOC=malloc
               TSAN_OPTIONS="ignore_noninstrumented_modules=1:log_path=$report") ;;
esac

cd "$tree" || exit 1
if [ "$profile" = coverage ]; then
    env "${settings[@]}" "$python" -m coverage run -m pytest "${quiet[@]}" "$@" </dev/null
else
    "${launch[@]}" env "${settings[@]}" "$python" -m pytest "${quiet[@]}" "$@" </dev/null
fi
status=$?
for file in "$report".*; do
    [ -e "$file" ] || continue
    say "$profile reports ($file):"
    head -n 80 "$file"
    status=1
done
exit "$status"
