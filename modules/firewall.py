"""A firewall: rules in match syntax say which connections pass, are dropped, or are reset.

    flowos run x.pcap -w y.pcap --attach 'firewall:rules="tcp,tp_dst=23 -> reset; udp,tp_dst=53 -> pass",default=drop'

A connection is decided once, when its first packet comes; then it costs a lookup per packet.  Rules
are tried in order, and the first that matches decides.  Packets that belong to no connection (ARP,
what cannot be read) pass.
"""
import re
from pathlib import Path
from typing import Literal

from flowos import RDWR, Module, UsageError
from flowos.core.match import Match
from flowos.emit import ends

ACTIONS = ("pass", "drop", "reset")
RULE = re.compile(r"(?P<match>.*?)\s*->\s*(?P<action>\w+)")


class Firewall(Module):
    """Decide for each connection: `pass`, `drop` (nothing of it leaves), `reset` (and the ends are told).

    `rules` are `MATCH -> ACTION`; `file` has more of them, a line each, `#` begins a comment; `default` is for
    connections that no rule matches.  Emits a record per connection that does not pass: `ts`, `connection`,
    `proto`, `a`, `b`, `action`, `rule`.

    >>> firewall = Firewall(["tcp,tp_dst=23 -> reset"], default="drop")
    >>> [(str(rule.match), rule.action) for rule in firewall.rules]
    [('tcp,tp_dst=23', 'reset')]
    >>> Firewall(["tcp,tp_dst=23 -> rest"])
    Traceback (most recent call last):
        ...
    flowos.core.errors.UsageError: firewall: 'tcp,tp_dst=23 -> rest': action 'rest', expected pass, drop or reset
    """

    name = "firewall"
    protocol = "frame"
    mode = RDWR

    def __init__(self, rules: list[str] = (), file: Path | None = None, default: Literal["pass", "drop", "reset"] = "pass"):
        if default not in ACTIONS:
            raise UsageError(f"firewall: default is {default!r}, expected pass, drop or reset")
        self.rules = [Rule(text) for text in [*rules, *(lines_of(file) if file is not None else ())]]
        self.default = default
        self.counts = dict.fromkeys(ACTIONS, 0)        # connections by what became of them

    def opened(self, connection):
        rule = next((rule for rule in self.rules if connection.matches(rule.match)), None)
        action = self.default if rule is None else rule.action
        if rule is not None:
            rule.hits += 1
        if action != "pass" and not (connection.drop() if action == "drop" else connection.reset()):
            action = "pass"                            # what is tunnelled shares its frames with others
        self.counts[action] += 1
        if action == "pass":
            return
        self.emit({"ts": connection.first_ns, **ends(connection), "action": action, "rule": rule and rule.text})


class Rule:
    """One rule: a match, an action, how many connections it decided."""

    def __init__(self, text):
        found = RULE.fullmatch(text.strip())
        if found is None:
            raise UsageError(f"firewall: {text!r}, expected MATCH -> ACTION")
        if found["action"] not in ACTIONS:
            raise UsageError(f"firewall: {text!r}: action {found['action']!r}, expected pass, drop or reset")
        self.text, self.match, self.action, self.hits = text.strip(), Match(found["match"]), found["action"], 0


def lines_of(path):
    """Give the rules of a file; comments and empty lines are left out."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UsageError(f"firewall: {path}: {error.strerror}") from error
    return [line for text in lines if (line := text.partition("#")[0].strip())]
