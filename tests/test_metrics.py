"""Scrapes of a running daemon, read by the parser of prometheus_client, beside what client and server know."""
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import namespaces
import pytest
from facing import ROOT, SERVER, Facing, read, send
from prometheus_client.parser import text_string_to_metric_families
from waiting import PATIENCE, until

from flowos import FlowOSError
from flowos.daemon.flowosd import FlowDaemon
from flowos.daemon.metrics import Collector, Server, expose, families

NAME = re.compile(r"flowos_[a-z][a-z0-9_]*[a-z0-9]")


def scrape(port, host="127.0.0.1"):
    """Give the text of one scrape."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=300) as response:
        assert response.headers.get_content_type() == "text/plain"
        return response.read().decode()


def samples(text):
    """Give {name: {labels: value}} of a scrape, and complain of what Prometheus's conventions do not have."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert NAME.fullmatch(family.name) and family.documentation and not family.documentation.startswith("..."), family
        assert family.name not in found and family.type in ("counter", "gauge")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
            values = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in values
            values[labels] = sample.value
    return found


@pytest.mark.live
def test_a_scrape_of_a_running_daemon(netns, tmp_path):
    with Facing(netns, tmp_path) as facing:
        facing.up("--metrics", "9100")
        stage = (("flow", "web"), ("module", "keep"))
        wan = (("port", "wan"), ("spec", "packet:wan"))
        near, far = facing.talk()
        send(near, b"x" * 900, b"x" * 100)
        read(far, 900)
        with namespaces.inside(facing.middle):
            first = samples(scrape(9100))
        assert first["flowos_module_held_bytes"][stage] == 100 and first["flowos_module_attached"][stage] == 1
        assert first["flowos_connections_total"][()] == first["flowos_connections_live"][()] == 1
        assert first["flowos_port_refused_long_total"][wan] == 0

        namespaces.ip("-n", facing.middle, "link", "set", "wan", "mtu", 1000)
        with namespaces.inside(facing.client), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(5):
                sock.sendto(bytes(1200), (SERVER, 9))
        send(near, b"y" * 200)
        read(far, 100)
        with namespaces.inside(facing.middle):
            # What left on another processor may still be on its way.
            until(lambda: samples(scrape(9100))["flowos_port_refused_long_total"][wan] >= 5, "all were refused")
            second = samples(scrape(9100))
            namespaces.ip("-n", facing.middle, "addr", "add", "198.51.100.1/32", "dev", "lo")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("198.51.100.1", 9100), timeout=300)
        assert second["flowos_port_refused_long_total"][wan] == 5
        assert second["flowos_start_time_seconds"] == first["flowos_start_time_seconds"]
        fallen = [(name, labels) for name, values in first.items() if name.endswith("_total")
                  for labels, value in values.items() if second[name][labels] < value]
        assert not fallen
        assert second["flowos_module_processing_seconds_total"][stage] > first["flowos_module_processing_seconds_total"][stage] > 0


@pytest.fixture
def asked(monkeypatch):
    """The threads on which daemons were asked."""
    threads = []
    ask = Collector.ask

    def noted(self):
        threads.append(threading.get_ident())
        return ask(self)
    monkeypatch.setattr(Collector, "ask", noted)
    return threads


def test_the_engines_thread_alone_is_asked_and_slow_scrapers_are_cut_off(asked, request, monkeypatch):
    host = f"127.1.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"      # nobody else takes a port of this address meanwhile
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    daemon = FlowDaemon({"lan": f"pipe:metrics-{port}-lan", "wan": f"pipe:metrics-{port}-wan"})
    request.addfinalizer(expose(daemon, (host, port)))
    seen = {}

    def visit():
        try:
            monkeypatch.setattr(Server, "patience", 0.2)
            with socket.create_connection((host, port), timeout=PATIENCE) as slow:
                slow.sendall(b"GET /metr")             # and no more
                seen["slow"] = slow.recv(1)
            monkeypatch.setattr(Server, "patience", PATIENCE)
            seen["text"] = scrape(port, host)
        finally:
            daemon.call("command", ["down"])
    visitor = threading.Thread(target=visit)
    visitor.start()
    daemon.run()                                       # here, on the test's own thread
    visitor.join(PATIENCE)
    assert samples(seen["text"])["flowos_packets_total"] == {(): 0} and seen["slow"] == b""
    assert asked == [threading.get_ident()]
    with pytest.raises(urllib.error.HTTPError, match="503"):
        scrape(port, host)


def test_a_taken_address_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FlowOSError, match=f"^--metrics 127.0.0.1:{port}: Address already in use$"):
            expose(None, ("127.0.0.1", port))


def test_a_port_without_a_counter_is_left_out_of_its_family():
    ports = {"lan": {"spec": "a:b", "received": 3, "tags": 1}, "wan": {"spec": "c:d", "received": 4}}
    told = {"began": 0, "counters": {name: 0 for name in families.__globals__["DESCRIPTIONS"]}, "ports": ports, "flows": []}
    made = {family.name: family for family in families(told, {
        "lan": {"received": "packets received", "tags": "tags put back"}, "wan": {"received": "packets received"}})}
    assert [sample.labels["port"] for sample in made["flowos_port_received"].samples] == ["lan", "wan"]
    assert [sample.labels["port"] for sample in made["flowos_port_tags"].samples] == ["lan"]


def test_without_the_package_the_remedy_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['prometheus_client'] = None\nfrom flowos.cli import main; sys.exit(main())", "up",
         "--foreground", "--user", "root", "--metrics", "9100", "--port", "lan=pipe:a", "--port", "wan=pipe:b", "--socket",
         str(tmp_path / "socket"), "--state", str(tmp_path / "state" / "x.toml")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (
        1, "flowos: up --metrics: prometheus_client is not installed; `pip install 'flowos[metrics]'` brings it\n")
