#!/usr/bin/env bash
# Install the Debian packages that the build, the tests and the benchmarks use.
#
#     scripts/debian.sh GROUP...          groups: build live fuzz bench
#
# A package is asked for only when what it brings is not there.  Root on Debian or Ubuntu
# installs it; anybody else is told what is missing.  Exit status 1 means that something
# needed for building is missing; tests that lack a program are skipped and say so.
# Nothing that gets installed here is started.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh

missing=()
need() {                    # need PACKAGE PROBE...: the package, unless the probe succeeds
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

look() {
    missing=()
    local group
    for group in "$@"; do
        case $group in
        build)
            need gcc have "${CC:-gcc}"
            need libc6-dev test -e /usr/include/stdio.h
            if ! find_python >/dev/null; then
                missing+=(python3 python3-venv libpython3-dev)
            fi ;;
        live)
            need iproute2 have ip
            need tshark have tshark
            need openvswitch-switch have ovs-vswitchd
            need curl have curl
            need openssl have openssl
            need nginx-light have nginx
            need dnsmasq-base have dnsmasq
            need bind9-dnsutils have dig
            need iputils-ping have ping
            need ethtool have ethtool
            need zsh have zsh
            need fish have fish
            need apache2-utils have ab ;;
        fuzz)
            if ! can_fuzz; then
                local clang major
                if clang=$(find_clang); then
                    major=$("$clang" -dumpversion | cut -d. -f1)
                    missing+=("libclang-rt-$major-dev")
                else
                    missing+=(clang)
                fi
            fi ;;
        bench)
            need libpcap-dev test -e /usr/include/pcap.h
            need libnids-dev test -e /usr/include/nids.h
            need libglib2.0-dev test -e /usr/include/glib-2.0/glib.h
            need libnet1-dev test -e /usr/include/libnet.h
            need iperf3 have iperf3
            need ethtool have ethtool ;;
        *)
            say "scripts/debian.sh: no group '$group'; expected build, live, fuzz or bench"
            exit 2 ;;
        esac
    done
}

# Services stay off: invoke-rc.d asks this file, and it says no while packages are unpacked.
policy=/usr/sbin/policy-rc.d
signature='# written by the FlowOS set-up; safe to delete'
unhold() { grep -qsF "$signature" "$policy" && rm -f "$policy"; }
hold() {
    unhold
    [ -e "$policy" ] || printf '#!/bin/sh\n%s\nexit 101\n' "$signature" >"$policy"
    chmod +x "$policy"
}

apt() {
    timeout 900 apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

install() {                 # all at once, else one by one, so that one unknown name costs only itself
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
    dpkg --configure -a
    apt update || apt update
    apt install --no-install-recommends "${missing[@]}" && return
    local package
    for package in "${missing[@]}"; do
        apt install --no-install-recommends "$package" || true
    done
}

look "$@"
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && have apt-get; then
    trap unhold EXIT
    trap 'exit 130' INT TERM
    hold
    run "Debian packages: ${missing[*]}" debian.log install
    unhold
    look "$@"               # clang's runtime is known by name only once clang is there
    if [ "${missing[*]-}" ] && [[ ${missing[*]} == libclang-rt-* ]]; then
        hold
        run "Debian packages: ${missing[*]}" debian-clang.log install
        look "$@"
    fi
fi
[ ${#missing[@]} -eq 0 ] && exit 0

say "Missing Debian packages: ${missing[*]}"
if [ "$(id -u)" = 0 ]; then
    say "  They could not be installed (see $LOGS/debian.log)."
else
    say "  As root: apt-get install ${missing[*]}"
fi
look build
if [ ${#missing[@]} -gt 0 ]; then
    say "  FlowOS cannot be built without: ${missing[*]} (Python 3.10 or later with venv and C headers, a C compiler)"
    exit 1
fi
say "  What needs them is skipped, with a word about it."
exit 0
