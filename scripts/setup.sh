#!/usr/bin/env bash
# Make .venv, and compile FlowOS in place; make calls the steps as their stamps grow old.
#
#     scripts/setup.sh venv       the virtual environment, with what building and running need
#     scripts/setup.sh build      compile what changed, in place; install FlowOS editable, once
#     scripts/setup.sh test       what the tests import
#     scripts/setup.sh bench      what the benchmarks import
#
# Each step may be interrupted and run again.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv=.venv

pip_install() { "$venv/bin/python" -m pip install -q --retries 5 "$@"; }

requirements() {            # requirements PURPOSE...: install them into the virtual environment
    "$venv/bin/python" scripts/requirements.py "$@" >"$LOGS/requirements-$1.txt"
    pip_install -r "$LOGS/requirements-$1.txt"
}

case ${1:-} in
venv)
    scripts/debian.sh build
    python=$(find_python)
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$venv"
        run "virtual environment in $venv ($("$python" -V 2>&1))" venv.log "$python" -m venv "$venv"
    fi
    run "Python packages to build and run" pip-build.log requirements build run ;;
build)      # pip would compile in a folder of its own, everything, each time
    run "compiling (${FLOWOS_BUILD:-release})" build.log "$venv/bin/python" setup.py -q build_ext --inplace
    if [ ! -e "$venv/bin/flowos" ] || [ setup.cfg -nt "$venv/bin/flowos" ]; then
        rm -f "$venv/bin/flowos"
        run "installing flowos into $venv" install.log \
            env FLOWOS_BUILD=none "$venv/bin/python" -m pip install -q --no-deps --no-build-isolation -e .
        touch "$venv/bin/flowos"
    fi ;;
test)
    run "Python packages for the tests" pip-test.log requirements test ;;
bench)
    run "Python packages for the benchmarks" pip-bench.log requirements bench ;;
*)
    say "usage: scripts/setup.sh venv|build|test|bench"
    exit 2 ;;
esac
