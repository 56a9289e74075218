"""The argument parsers of all commands, as the command line itself makes them: what manual and completion are written from."""
import argparse
import importlib

from . import Parser, commands


def parser_of(command):
    """Give the parser of one command."""
    group = importlib.import_module(f"{__package__}.{command}")
    parser = Parser(prog=f"flowos {command}", description=group.__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    group.configure(parser)
    return parser


def parsers():
    """Give {command: parser} of all commands.

    >>> parsers()["attach"].prog
    'flowos attach'
    """
    return {command: parser_of(command) for command in commands()}


def actions(parser):
    """Split a parser's actions: (positional ones, options); those whose help is suppressed are left out.

    >>> places, options = actions(parser_of("detach"))
    >>> [place.metavar for place in places], [option.option_strings for option in options]
    (['MODULE', 'FLOW'], [['-h', '--help'], ['--socket'], ['--tls'], ['--json']])
    """
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return ([action for action in shown if not action.option_strings], [action for action in shown if action.option_strings])


def help_of(parser, action):
    """Give an action's help, its %(default)s and the like filled in."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def value_of(action):
    """Give what the value of an action is called, or "" where it takes none.

    >>> [value_of(option) for option in actions(parser_of("attach"))[1]]
    ['', 'ORDER', '{inline,own}', 'PATH', 'HOST:PORT,CERT,KEY,CA', '']
    """
    if action.option_strings and action.nargs == 0:
        return ""
    if action.metavar is not None:
        return action.metavar
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.option_strings else action.dest


def usage_of(parser):
    """Give the usage on one line, without the program."""
    formatter = argparse.HelpFormatter(prog="", width=100_000)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return " ".join(formatter.format_help().split())
