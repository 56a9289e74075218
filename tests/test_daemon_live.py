"""The daemon as an operator meets it: typed commands, real hosts on both sides, traffic that runs on."""
import json
import random
import re
import threading
import time

import pytest

from daemons import PAGE, SERVER, STRIPPED, between, digest, fetch, text_of

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
