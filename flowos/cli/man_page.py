"""The manual page of `flowos`, in roff (man(7)), from the parsers and docstrings that `--help` shows.

    SYNOPSIS, DESCRIPTION    of flowos itself
    COMMANDS                 a subsection each: usage, docstring, arguments, options
    EXIT STATUS, ENVIRONMENT, FILES
"""
import re
import textwrap

from flowos._version import __version__

from . import __doc__ as about
from .man_parsers import actions, help_of, parsers, usage_of, value_of

ENVIRONMENT = {
    "FLOWOS_SOCKET": "the daemon's control socket, where --socket is not given",
    "FLOWOS_STATE": "the daemon's saved configuration, where --state is not given",
}
FILES = {
    "/run/flowos/flowosd.sock": "the control socket of a daemon that root started",
    "/var/lib/flowos/flowosd.toml": "its saved configuration, as `flowos save` writes it; its log is beside it",
    "/run/flowos/settings.journal": "settings of interfaces that `flowos doctor --fix` changed, for --restore",
    "/etc/flowos/modules, /usr/lib/flowos/modules": "folders that such a daemon loads modules from",
}


def escaped(text):
    r"""Write text so that roff prints it as it is.

    >>> escaped("--json"), escaped(".TH 'x' \\")
    ('\\-\\-json', "\\&.TH 'x' \\e")
    """
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def prose(text):
    """Write a docstring: paragraphs, and as they stand those that are indented.

    >>> print(prose("One\\ntwo.\\n\\n    flowos up\\n"))
    .PP
    One
    two.
    .PP
    .RS 4
    .nf
    flowos up
    .fi
    .RE
    """
    lines = []
    for paragraph in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines.append(".PP")
        if paragraph.startswith(" "):
            lines += [".RS 4", ".nf", escaped(textwrap.dedent(paragraph)), ".fi", ".RE"]
        else:
            lines.append(escaped(paragraph))
    return "\n".join(lines)


def entry(term, text):
    """Write a term and what it means."""
    return f".TP\n{term}\n{escaped(text)}"


def term_of(action):
    """Write what an argument or option is called."""
    value = f"\\fI{escaped(value_of(action))}\\fR" if value_of(action) else ""
    flags = ", ".join(f"\\fB{escaped(flag)}\\fR" for flag in action.option_strings)
    return f"{flags} {value}".strip()


def section(command, parser):
    """Write the subsection of one command."""
    places, options = actions(parser)
    usage = usage_of(parser)
    return "\n".join([
        f".SS flowos {escaped(command)}", f".B flowos {escaped(command)}", escaped(usage), prose(parser.description),
        *(entry(term_of(action), help_of(parser, action)) for action in places + options)])


def page():
    """Give the whole page."""
    codes = re.search(r"^Exit codes: (.*?)\n\n|^Exit codes: (.*)\Z", about, re.M | re.S)
    names = parsers()
    return "\n".join([
        f'.TH FLOWOS 1 "" "FlowOS {__version__}" "User Commands"',
        ".SH NAME", "flowos \\- flow\\-centric stream processing",
        ".SH SYNOPSIS", ".B flowos", "[\\fB\\-\\-version\\fR] [\\fB\\-\\-help\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR...]",
        ".SH DESCRIPTION", "FlowOS turns packets into flows once and hands each connection's data to modules, which read or edit it;",
        "what leaves are valid packets again. The commands work on captures, or speak to a daemon that stands between two interfaces.",
        ".SH COMMANDS", *(section(command, parser) for command, parser in names.items()),
        ".SH EXIT STATUS", escaped((codes[1] or codes[2]).strip()),
        ".SH ENVIRONMENT", *(entry(f"\\fB{name}\\fR", text) for name, text in ENVIRONMENT.items()),
        ".SH FILES", *(entry(f"\\fI{escaped(name)}\\fR", text) for name, text in FILES.items()), ""])
