"""`flowos top` shows what the kernel at both ends knows to be so: bytes released and held, packets dropped."""
import io
import os
import pty
import select
import socket
import subprocess
import sys

import namespaces
import pytest
from facing import ROOT, SERVER, Facing, read, send
from rich.console import Console
from waiting import PATIENCE, until

from flowos import RDWR, Config, Engine, Module, pcap
from flowos.cli.top_rates import rates
from flowos.cli.top_view import BAR, bar, pipeline
from flowos.core.pipe import pipe
from flowos.core.positions import positions


def stage_of(told):
    """Give the only stage that is told of."""
    [flow] = told["flows"]
    [stage] = flow["pipeline"]
    return stage


@pytest.mark.live
def test_top(netns, tmp_path):
    with Facing(netns, tmp_path) as facing:
        facing.up()
        near, far = facing.talk()
        send(near, b"x" * 900, b"x" * 100)
        assert read(far, 900) == b"x" * 900            # so the module released so much, and has the rest
        first = facing.told("top", "--once", "--interval", "0.05")
        assert (stage_of(first)["head"], stage_of(first)["tail"], stage_of(first)["open"]) == (900, 1000, 1)
        send(near, b"y" * 400, b"y" * 100)
        assert read(far, 500) == b"x" * 100 + b"y" * 400
        second = facing.told("top", "--once", "--interval", "0.05")
        assert (stage_of(second)["head"], stage_of(second)["tail"]) == (1400, 1500)
        between = rates(first, second)["stages"]["web/keep"]
        assert between["head"] == between["tail"] == 500 / (second["at"] - first["at"])

        # Datagrams that fit the one interface and not the other are dropped, each of them.
        namespaces.ip("-n", facing.middle, "link", "set", "wan", "mtu", 1000)
        with namespaces.inside(facing.client), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(7):
                sock.sendto(bytes(1200), (SERVER, 9))
        send(near, b"z" * 100)
        read(far, 100)
        # What came before has been dealt with, but for what left on another processor.
        until(lambda: facing.told("top", "--once", "--interval", "0.05")["ports"]["wan"]["refused_long"] >= 7, "all were refused")
        shown = facing.flowos("top", "--once", "--interval", "0.05")
        lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
        assert lines["flowosd"][1] == str(second["pid"])
        assert lines["lan"][1] == "packet:lan" and lines["wan"][:4] == ["wan", "refused_long", "0", "7"]
        assert {"keep", "1.5", "1.6", "kB", "100", "B"} <= set(lines["1"])

        screen = facing.things.enter_context(Screen(facing.command("top", "--interval", "0.2"), facing.environment))
        screen.see(b"web  priority=0  tcp,tp_dst=4000")
        screen.see(b"refused_long")
        screen.type(b"q")
        assert screen.process.wait(PATIENCE) == 0
        assert b"\x1b[?1049l" in screen.rest()         # the terminal has its own screen back


class Screen:
    """A program at a terminal of ours."""

    def __init__(self, command, environment):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
                                        env={**environment, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"})
        os.close(theirs)

    def see(self, text):
        """Wait until the program has shown a text."""
        seen = b""
        while text not in seen:
            assert select.select([self.ours], [], [], PATIENCE)[0], seen
            seen += os.read(self.ours, 65536)

    def rest(self):
        """Give what it showed last."""
        seen = b""
        while select.select([self.ours], [], [], 0)[0]:
            try:
                seen += os.read(self.ours, 65536)
            except OSError:                            # EIO: nobody has the other end any more
                break
        return seen

    def type(self, keys):
        """Type on its keyboard."""
        os.write(self.ours, keys)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


class Account(Module):
    """Holds the last bytes of each window, and keeps account of them."""

    name, protocol, mode, hold = "account", "tcp", RDWR, 1e9

    def __init__(self):
        self.held = {}

    def process(self, window):
        count = min(10, window.length)
        window.release(keep=count)
        self.held[window.connection.id, window.direction] = count

    def closed(self, connection, reason):
        for direction in list(self.held):
            if direction[0] == connection.id:
                del self.held[direction]


def test_what_is_held_is_what_the_module_holds(demo_capture):
    """Between any two steps, while a real capture goes through an engine."""
    module, looks = Account(), []
    ours, theirs = pipe("top", slots=64)
    with pcap.open_offline(str(demo_capture)) as reader, Engine(Config.offline()) as engine:
        engine.add_port(theirs)
        serial = engine.attach(module).serial
        for ts, frame in reader:
            assert ours.send(bytes(frame), int(ts * 1e9))
            ours.tx_sync()
            engine.step()
            engine.step()                              # finds nothing, and delivers
            place = positions(engine)[serial]
            assert place["tail"] - place["head"] == sum(module.held.values())
            assert place["open"] == sum(held > 0 for held in module.held.values())
            looks.append(place["open"])
    assert max(looks) > 3 > 0 == looks[0]


def test_a_bar_shows_what_is_held_however_little():
    assert bar({"head": 0, "tail": 0}).plain == "·" * BAR
    assert bar({"head": 10**9, "tail": 10**9}).plain == "━" * BAR
    assert bar({"head": 10**9, "tail": 10**9 + 1}).plain == "━" * (BAR - 1) + "╸"
    assert bar({"head": 0, "tail": 5}).plain == "╸" * BAR


@pytest.mark.parametrize("width", [80, 100, 125, 160])
def test_what_is_shown_fits_the_screen(width):
    stage = {"module": "http_strip", "order": 12, "mode": "rdwr", "protocol": "http.body", "attached": True, "head": 123_456_789_012,
             "tail": 123_456_799_012, "errors": 1, "bytes": 0, "windows": 0, "edits": 0, "ns": 0}
    rate = {"bytes": 123_456_789.1, "windows": 123_456.1, "edits": 12_345.6, "ns": 9.99e8}
    flow = {"name": "web", "priority": 0, "match": "tcp", "pipeline": [stage]}
    paper = Console(width=width, file=io.StringIO())
    paper.print(pipeline(flow, {"web/http_strip": rate}, width))
    shown = paper.file.getvalue()
    assert "…" not in shown
    assert " ".join(shown.splitlines()[-2].split()).startswith("12 http_strip ") and "123 GB" in shown and "10 kB" in shown
    assert ("http.body" in shown) == (width >= 125) and ("12.3 k" in shown) == (width >= 100)


def test_rates_of_another_daemon_begin_at_zero():
    old = {"at": 1.0, "pid": 1, "counters": {"packets": 90}, "ports": {}, "drops": [], "flows": []}
    assert rates(old, {**old, "at": 3.0, "counters": {"packets": 100}})["counters"]["packets"] == 5
    assert rates(old, {**old, "at": 3.0, "pid": 2, "counters": {"packets": 100}})["counters"]["packets"] == 50


@pytest.mark.parametrize(("before", "words", "code", "said"), [
    ("sys.modules['rich'] = None", ["--once"], 1, "top: rich is not installed; `pip install 'flowos[top]'` brings it"),
    ("", ["--once", "--socket", "/nowhere"], 1, "/nowhere: no daemon runs there; `flowos up` starts one"),
    ("", ["--interval", "0"], 2, "top: --interval 0: expected 0.05 to 3600 seconds")])
def test_what_is_wrong_is_said(before, words, code, said):
    done = subprocess.run([sys.executable, "-c", f"import sys; {before}\nfrom flowos.cli import main; sys.exit(main())", "top", *words],
                          cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (code, f"flowos: {said}\n")
