"""The command line: `flowos COMMAND …`.

Each command group is one file of this package, found by its name: `inspect.py` is `flowos
inspect` (a file whose name holds an underscore is a part of a command, not a command).  Such a
file has a docstring whose first line is the command's help, and two functions:

    configure(parser)     add the arguments to an argparse parser
    run(arguments)        do the work; the result is the exit code

Exit codes: 0 done, 1 an error on the way, 2 a usage error, 130 after Ctrl-C, 141 when the
reader of standard output went away.  An error is one line on stderr: `flowos: what: why`.
"""
import argparse
import ast
import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys

from flowos._version import __version__

OK, FAILED, USAGE, INTERRUPTED, NO_READER = 0, 1, 2, 130, 141


class UsageFault(Exception):
    """The command line itself is wrong; the message says what, and what was expected."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are FlowOS's."""

    def error(self, message):
        raise UsageFault(f"{self.prog.removeprefix('flowos ')}: {message}")


def commands():
    """Give the names of the command groups, sorted.

    >>> "inspect" in commands()
    True
    """
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if "_" not in found.name)


def summary(command):
    """Give the first line of a command's docstring without importing the command."""
    loader = importlib.util.find_spec(f"{__name__}.{command}").loader
    text = ast.get_docstring(ast.parse(loader.get_source(f"{__name__}.{command}"))) or ""
    return text.split("\n", 1)[0]


def usage():
    """Give the help text of `flowos` itself."""
    names = commands()
    width = max((len(name) for name in names), default=0) + 4
    lines = ["usage: flowos [--version] [--help] COMMAND …", "", "commands:"]
    lines += [f"  {name:<{width}}{summary(name)}" for name in names]
    return "\n".join(lines + ["", "`flowos COMMAND --help` tells more.", ""])


def unknown(command):
    """Say that there is no such command, and which one may have been meant.

    >>> print(unknown("inspct"))
    inspct: no such command; did you mean inspect?
    """
    near = difflib.get_close_matches(command, commands(), n=1)
    hint = f"did you mean {near[0]}?" if near else "`flowos --help` lists them"
    return f"{command}: no such command; {hint}"


def dispatch(arguments):
    """Run one command line; the result is the exit code."""
    if not arguments:
        sys.stderr.write(usage())
        return USAGE
    command, rest = arguments[0], arguments[1:]
    if command in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return OK
    if command in ("-V", "--version"):
        sys.stdout.write(f"flowos {__version__}\n")
        return OK
    if command.startswith("-"):
        raise UsageFault(f"{command}: no such option; expected --version, --help or a command")
    if command not in commands():
        raise UsageFault(unknown(command))
    group = importlib.import_module(f"{__name__}.{command}")
    parser = Parser(prog=f"flowos {command}", description=group.__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    group.configure(parser)
    return group.run(parser.parse_args(rest))


def explain(error):
    """Give an error's `what: why` line."""
    from flowos import FlowOSError

    if isinstance(error, OSError) and not isinstance(error, FlowOSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def silence_stdout():
    """Point standard output at nothing, so that the flush at exit cannot fail again."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        pass                          # not a file: a test's stand-in has nothing to flush


def main(argv=None):
    """Run the command line `argv` (default: the process's own); give the exit code."""
    from flowos import FlowOSError, UsageError

    try:
        code = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except SystemExit as stop:        # argparse, after --help
        return OK if stop.code is None else stop.code
    except BrokenPipeError:
        silence_stdout()
        return NO_READER
    except KeyboardInterrupt:
        return INTERRUPTED
    except (UsageFault, UsageError) as error:
        sys.stderr.write(f"flowos: {error}\n")
        return USAGE
    except (FlowOSError, OSError) as error:
        sys.stderr.write(f"flowos: {explain(error)}\n")
        return FAILED
