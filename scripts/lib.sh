# Shell functions shared by the scripts; each script sources this file from the project's root.
# Long-winded tools write to build/log/; the terminal gets one line per step.

LOGS=build/log
mkdir -p "$LOGS"

say() { printf '%s\n' "$*"; }

# run TITLE LOG COMMAND...: one line on the terminal; the whole output, when it fails, from LOG.
run() {
    local title=$1 log=$LOGS/$2 start=$SECONDS
    shift 2
    printf '%s ... ' "$title"
    if "$@" >"$log" 2>&1 </dev/null; then
        say "done ($((SECONDS - start)) s)"
    else
        local status=$?
        say "FAILED (status $status); the end of $log:"
        tail -n 40 "$log" | sed 's/^/    /'
        return "$status"
    fi
}

have() { command -v "$1" >/dev/null 2>&1; }

# An interpreter that can build FlowOS: 3.10 or later, able to make a venv, with C headers.
fit_python() {
    "$1" - >/dev/null 2>&1 <<'PY'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 10) and os.path.exists(header)))
PY
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
        if have "$candidate" && fit_python "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# clang under its plain name or, as Debian also installs it, with a version behind it.
find_clang() {
    local candidate
    for candidate in ${CLANG:-} clang $(compgen -c clang- | grep -E '^clang-[0-9]+$' | sort -t- -k2 -nr); do
        if have "$candidate"; then
            say "$candidate"
            return 0
        fi
    done
    return 1
}

# Whether that clang can link a libFuzzer harness: its runtime is a package of its own.
can_fuzz() {
    local clang out status
    clang=$(find_clang) || return 1
    out=$(mktemp)
    printf 'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return d && n ? 0 : 0; }\n' |
        "$clang" -x c -fsanitize=fuzzer,address,undefined -o "$out" - >/dev/null 2>&1
    status=$?
    rm -f "$out"
    return "$status"
}
