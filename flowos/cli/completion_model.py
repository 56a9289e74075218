"""What may stand where on a command line of flowos: read off the parsers, for the scripts of all shells.

What a word may be is told by its choices, else by what it is called: FLOW is a flow, FILE a file.
"""
from dataclasses import dataclass

from . import summary
from .man_parsers import actions, help_of, parsers, value_of

#: Kinds of names that `flowos completion --names` prints.
NAMES = ("modules", "attached", "flows", "parameters")
KINDS = {
    "MODULE": "modules", "FLOW": "flows", "[NAME=]MATCH": "flows", "FLOW/MODULE.PARAMETER": "parameters", "IFACE": "interfaces",
    "FOLDER": "folders", "DIR": "folders", "FILE": "files", "PATH": "files", "IN": "files", "OUT": "files", "SOLUTION": "files",
    "N|FILE": "files", "PLATFORM": "files", "SERVICES": "files",
}
#: Commands whose modules are those that are attached.
ON_ATTACHED = ("detach", "reload", "unload")


@dataclass(frozen=True)
class Word:
    """An argument, or the value of an option: what it is called, its kind ("" where anything goes), its choices."""

    title: str
    kind: str
    choices: tuple = ()


@dataclass(frozen=True)
class Option:
    """An option: its spellings, its help, its value or None."""

    flags: tuple
    help: str
    value: Word = None


@dataclass(frozen=True)
class Command:
    """A command: arguments in their order, `more` when the last may be repeated, and options."""

    name: str
    help: str
    words: tuple
    more: bool
    options: tuple


def word_of(command, action):
    """Give what an argument or an option's value is."""
    if action.choices is not None:
        return Word(action.dest, "choices", tuple(map(str, action.choices)))
    title = value_of(action)
    kind = KINDS.get(title, "")
    return Word(title, "attached" if kind == "modules" and command in ON_ATTACHED else kind)


def model():
    """Give all commands.

    >>> attach = next(command for command in model() if command.name == "attach")
    >>> [word.kind for word in attach.words], attach.more
    (['modules', 'flows', ''], True)
    """
    made = []
    for name, parser in parsers().items():
        places, options = actions(parser)
        made.append(Command(
            name, summary(name), tuple(word_of(name, place) for place in places), bool(places) and places[-1].nargs in ("*", "+"),
            tuple(Option(tuple(option.option_strings), help_of(parser, option), word_of(name, option) if value_of(option) else None)
                  for option in options)))
    return made
