"""The daemon as an operator meets it: typed commands, real hosts on both sides, traffic that runs on."""
import http.client
import json
import random
import re
import socket
import threading
import time

import pytest

from daemons import PAGE, SERVER, STRIPPED, between, digest, fetch, text_of
from namespaces import inside
from waiting import until

pytestmark = pytest.mark.live
URL = f"http://{SERVER[0]}/", f"http://[{SERVER[1]}]/"


@pytest.mark.parametrize("kind", ["packet", "xdp"])
def test_a_tour(netns, kind):
    with between(netns, ports=(f"lan={kind}:left", f"wan={kind}:right")) as (hosts, daemon):
        kept = [hosts.connection(family) for family in (0, 1)]
        pages = lambda: [fetch(connection) for connection in kept] + [  # noqa: E731
            hosts.curl(version, url) for version in ("--http1.0", "--http1.1") for url in URL]
        assert daemon.type("flow", "add", "tcp,tp_dst=80") == "flow1"
        assert daemon.type("flow", "add", "six=tcp6,tp_dst=80", "--priority", "7") == "six"
        assert set(pages()) == {PAGE}
        assert daemon.type("load", "http_strip", "pattern=SECRET") == "http_strip"
        assert set(pages()) == {PAGE}
        daemon.type("attach", "http_strip", "flow1")
        assert pages() == [STRIPPED, PAGE] * 3
        daemon.type("attach", "http_strip", "six")
        assert set(pages()) == {STRIPPED}
        assert hosts.curl("-w", "%{num_connects} ", URL[0], URL[0]).count(STRIPPED.strip()) == 2

        shown = daemon.type("show")
        assert shown.startswith("flow1  priority=0  tcp,tp_dst=80\n") and "http_strip pattern=SECRET (rdwr http.body, inline)" in shown
        stage, = json.loads(daemon.type("show", "flow1", "--json"))[0]["pipeline"]
        assert (stage["edits"], stage["bytes_removed"], stage["errors"], stage["attached"]) == (8, 48, 0, True)

        assert daemon.type("get", "flow1/http_strip.pattern") == "SECRET"
        for flow in "flow1", "six":
            daemon.type("set", f"{flow}/http_strip.pattern", "hello ")
            assert daemon.type("get", f"{flow}/http_strip.pattern") == "hello "
        assert set(pages()) == {PAGE.replace(b"hello ", b"")}
        assert daemon.type("reload", "http_strip") == "http_strip: new code on 2 flows"
        assert set(pages()) == {PAGE.replace(b"hello ", b"")}

        saved = daemon.type("save")
        (daemon.folder / "wanted.toml").write_text(saved.replace('pattern = "hello "', 'pattern = "world"'))
        assert daemon.type("apply", daemon.folder / "wanted.toml", "--plan") == daemon.type("apply", daemon.folder / "wanted.toml") != ""
        assert daemon.type("apply", daemon.folder / "wanted.toml") == ""
        assert set(pages()) == {PAGE.replace(b"world", b"")}

        for flow in "flow1", "six":
            daemon.type("detach", "http_strip", flow)
        assert set(pages()) == {PAGE}
        assert daemon.type("flow", "list") == "flow1  priority=0  tcp,tp_dst=80\nsix  priority=7  tcp6,tp_dst=80"
        counted = json.loads(daemon.type("stats", "--json"))
        assert counted["pid"] == daemon.pid and counted["counters"]["packets"] == sum(
            port["received"] for port in counted["ports"].values())
        assert counted["ports"]["lan"]["spec"] == f"{kind}:left"
        assert re.search(rf"^port wan \({kind}:right\)$", daemon.type("stats"), re.M)
        daemon.type("unload", "http_strip")
        daemon.type("flow", "mod", "six", "--priority", "8")
        assert json.loads(daemon.type("show", "six", "--json"))[0]["priority"] == 8
        for flow in "flow1", "six":
            daemon.type("flow", "del", flow)
        assert daemon.type("show") == "" and set(pages()) == {PAGE}
        daemon.type("down")
        assert not daemon.alive()
        code, out, err = daemon.try_("show")
        assert (code, out) == (1, "") and "no daemon runs there; `flowos up` starts one" in err
        assert "Traceback" not in daemon.log()


class Transfers:
    """Texts fetched again and again, over connections that are kept and ones that are new, on threads; each is checked."""

    def __init__(self, hosts, seed, length=60_000, kept=2, fresh=1):
        self.hosts, self.length, self.seeds = hosts, length, random.Random(seed)
        self.wrong, self.done, self.edited, self.running = [], 0, 0, True
        self.threads = [threading.Thread(target=self.work, args=(number, number < kept)) for number in range(kept + fresh)]

    def work(self, number, keep):
        """Fetch until it is enough."""
        dice, connection = random.Random(number), None
        while self.running:
            seed, chunked = dice.randrange(50), dice.randrange(2)
            length = dice.randrange(1, self.length)
            try:
                connection = connection or self.hosts.connection(number % 2)
                got = fetch(connection, f"/text?seed={seed}&length={length}&chunked={chunked}")
                wanted = text_of(seed, length)
                if digest(got) != digest(wanted):
                    self.wrong.append((seed, length, chunked, len(got), len(wanted)))
                self.edited += got != wanted
            except Exception as error:        # whatever happens to a connection is wrong
                self.wrong.append((seed, length, chunked, repr(error)))
                self.running = False
            self.done += 1
            if not keep and connection is not None:
                connection.close()
                connection = None

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self.running = False
        for thread in self.threads:
            thread.join()


def turn(daemon, dice, folder):
    """Change something at random, as it is typed; what is refused for what is there already is tried in vain."""
    flow = dice.choice(["web", "six"])
    what = dice.choice(["attach", "detach", "set", "reload", "apply", "own", "mod", "upgrade"])
    if what == "attach":
        words = ["attach", "http_strip", flow, "pattern=SECRET"]
    elif what == "own":
        words = ["attach", "byte_count", flow, "--threads", "own"]
    elif what == "detach":
        words = ["detach", dice.choice(["http_strip", "http_strip", "byte_count"]), flow]
    elif what == "set":
        words = ["set", f"{flow}/http_strip.pattern", dice.choice(["SECRET", "nowhere"])]
    elif what == "mod":
        words = ["flow", "mod", flow, "--priority", dice.randrange(10)]
    elif what == "reload":
        words = ["reload", "http_strip"]
    elif what == "apply":
        stages = [name for name in ("http_strip", "byte_count") if dice.randrange(2)]
        (folder / "wanted.toml").write_text("".join(
            f'[flows.{name}]\nmatch = "{match},tp_dst=80"\n' + "".join(
                f'[[flows.{name}.attach]]\nmodule = "{stage}"\n' + ('parameters = { pattern = "SECRET" }\n' if stage == "http_strip" else "")
                for stage in stages) for name, match in (("web", "tcp"), ("six", "tcp6"))))
        words = ["apply", folder / "wanted.toml"]
    else:
        assert daemon.client().wait_for(daemon.client().task("upgrade")).status == 0
        return
    code, _out, err = daemon.try_(*words)
    assert code == 0 or "already" in err or "is not attached" in err or "is not loaded" in err, (words, err, daemon.log())


def cycles(netns, seed, count, seconds, fetched):
    """Change a daemon's work at random while texts are fetched through it, so many at least; give (transfers, statistics, memory)."""
    dice = random.Random(seed)
    with between(netns) as (hosts, daemon):
        daemon.type("flow", "add", "web=tcp,tp_dst=80")
        daemon.type("flow", "add", "six=tcp6,tp_dst=80")
        pause, memory = seconds / count, []
        with Transfers(hosts, seed) as transfers:
            began = time.monotonic()
            for number in range(count):
                turn(daemon, dice, daemon.folder)
                if number % max(1, count // 20) == 0:
                    memory.append(resident(daemon.pid))
                time.sleep(max(0, began + (number + 1) * pause - time.monotonic()))
                until(lambda: transfers.done >= fetched * number // count or not transfers.running, "texts are fetched meanwhile")
                if not transfers.running:
                    break
        assert not transfers.wrong, (transfers.wrong[:5], daemon.log())
        books = json.loads(daemon.type("stats", "--json"))
        errors = [stage["last_error"] for flow in json.loads(daemon.type("show", "--json")) for stage in flow["pipeline"]]
        assert not any(errors), errors
        daemon.type("down")
        assert "Traceback" not in daemon.log()
        return transfers, books, memory


def resident(pid):
    """Give a process's resident memory in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def balanced(books):
    """Check what the engine and the ports counted against each other."""
    counters, ports = books["counters"], books["ports"].values()
    assert counters["packets"] == sum(port["received"] for port in ports)
    assert counters["merged_packets"] == sum(port["sent"] for port in ports) + counters["merged_port_full"]
    assert counters["merged_packets"] == counters["merged_unchanged"] + counters["merged_made"] + counters.get("merged_edited", 0)
    assert counters["edit_bytes_removed"] == 6 * counters["edits"] > 0


def test_every_byte_is_right_whatever_changes_meanwhile(netns):
    transfers, books, _memory = cycles(netns, 1, 50, 5, 40)
    assert transfers.done > 30 and 0 < transfers.edited < transfers.done
    balanced(books)


@pytest.mark.soak
def test_a_thousand_changes_in_ten_minutes(netns):
    transfers, books, memory = cycles(netns, time.time_ns(), 1000, 600, 2000)
    assert transfers.done > 1000 and 0 < transfers.edited < transfers.done
    balanced(books)
    half = memory[len(memory) // 2:]                      # once everything was loaded and every pool has its size
    assert max(half) - min(half) < 8 << 20, memory


def message(body, chunked):
    """Give a response, its body in chunks or of a length."""
    if not chunked:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    pieces = [body[at:at + 700] for at in range(0, len(body), 700)]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.mark.parametrize("chunked", [False, True])
def test_modules_come_and_go_in_the_middle_of_a_message(netns, chunked):
    request, body = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", text_of(1, 3000)
    answer = message(body, chunked)
    head = answer.index(b"\r\n\r\n") + 4

    def received(sock, count):
        data = b""
        while len(data) < count:
            piece = sock.recv(65536)
            assert piece
            data += piece

    def fetched(sock):
        response = http.client.HTTPResponse(sock, method="GET")
        response.begin()
        return response.read()

    with between(netns) as (hosts, daemon):
        daemon.type("flow", "add", "raw=tcp,tp_dst=81")
        with inside(hosts.server):
            listener = socket.create_server((SERVER[0], 81))
        change = {False: ["attach", "http_strip", "raw", "pattern=SECRET"], True: ["detach", "http_strip", "raw"]}
        there, begun = False, False
        for cut in (0, head - 1, head, head + 3, head + 704, head + 1500, len(answer) - 1, len(answer)):
            for reader in (False, True):
                if reader != begun:           # a module that only reads is there before the editor, or none is
                    daemon.type(*(["attach", "http_log", "raw", "--order", "9"] if reader else ["detach", "http_log", "raw"]))
                    begun = reader
                for _ in range(2):            # the editor comes, or goes
                    with inside(hosts.client):
                        client = socket.create_connection((SERVER[0], 81), timeout=300)
                    server, _address = listener.accept()
                    with client, server:
                        for part in "before", "under way", "after":
                            client.sendall(request)
                            received(server, len(request))
                            at = cut if part == "under way" else len(answer)
                            server.sendall(answer[:at])
                            if part == "under way":
                                daemon.type(*change[there])
                                there = not there
                            server.sendall(answer[at:])
                            got = fetched(client)
                            assert digest(got) == digest(body), (cut - head, reader, there, part)
                            assert part == "under way" or (got != body) == there, (cut - head, reader, there, part)
        listener.close()
