"""Give up rights: from root to an unprivileged user that keeps four capabilities.

CAP_NET_RAW and CAP_NET_ADMIN open and set up ports, CAP_BPF loads the programs of `xdp:` ports,
CAP_IPC_LOCK pins their memory.  Nothing else is left, in no set, and no program that is run later gets
anything back (no_new_privs).  Everything here is about the whole process, so it is done before there
are threads: Linux keeps capabilities per thread.
"""
import ctypes
import os
import pwd
import threading

from flowos.core.errors import FlowOSError, UsageError

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_BPF": 39}
# Of linux/prctl.h and linux/capability.h.
KEEPCAPS, CAPBSET_DROP, NO_NEW_PRIVS, CAP_AMBIENT, AMBIENT_CLEAR = 8, 24, 38, 47, 4
VERSION_3 = 0x20080522
libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def _prctl(what, *values):
    if libc.prctl(what, *(ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4])) < 0:
        raise FlowOSError(f"prctl({what}): {os.strerror(ctypes.get_errno())}")


def held():
    """Give the numbers of the capabilities this thread may use."""
    with open("/proc/thread-self/status") as file:
        bits = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return {bit for bit in range(64) if bits >> bit & 1}


def _capset(numbers):
    sets = (_Sets * 2)()
    for number in numbers:
        word, bit = divmod(number, 32)
        sets[word].effective |= 1 << bit
        sets[word].permitted |= 1 << bit
    if libc.capset(ctypes.byref(_Header(VERSION_3, 0)), sets):
        raise FlowOSError(f"capset: {os.strerror(ctypes.get_errno())}")


def account(user):
    """Give the entry of a user; UsageError: there is none, with what to do."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"there is no user {user!r}; `useradd --system {user}` makes one, or give --user") from None


def drop(user):
    """Become a user that keeps `CAPABILITIES`, as far as they are held now.

    UsageError: no such user, or threads are running.  FlowOSError: the kernel refuses.
    """
    if threading.active_count() > 1:
        raise UsageError("rights are given up before threads are started: they would keep theirs")
    entry = account(user)
    kept = held() & set(CAPABILITIES.values())
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for number in range(last + 1):
        if number not in kept:
            _prctl(CAPBSET_DROP, number)
    _prctl(KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    _prctl(CAP_AMBIENT, AMBIENT_CLEAR)
    _capset(kept)
    _prctl(KEEPCAPS, 0)
    _prctl(NO_NEW_PRIVS, 1)
