"""Print the manual page of flowos, made from what --help shows.

    flowos man | man -l -
    flowos man >/usr/share/man/man1/flowos.1
"""
import sys

from . import OK


def configure(parser):
    """Add the command's arguments: there are none."""


def run(arguments):
    """Run `flowos man`; the result is the exit code."""
    from .man_page import page

    sys.stdout.write(page())
    return OK
