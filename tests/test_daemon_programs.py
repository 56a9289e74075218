"""What other people's programs see of pages that are stripped on their way: nginx serves, ab, curl and a browser fetch."""
import re
import shutil
import subprocess

import pytest

from conftest import program
from daemons import SERVER, between

pytestmark = pytest.mark.live
PAGE = "<html><head><title>page</title></head><body>" + "<p>a SECRET and more of it</p>" * 400 + "</body></html>\n"
STRIPPED = PAGE.replace("SECRET", "")
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error;
events {{ }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder}; default_type text/html;
    server {{ listen 81; listen [::]:81; root {folder}; keepalive_requests 100000; }}
}}
"""


@pytest.fixture
def stripped(netns, tmp_path):
    """Hosts with nginx on port 81, and a daemon that strips its pages."""
    tmp_path.chmod(0o755)
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "nginx.conf").write_text("user root;" + NGINX.format(folder=tmp_path))
    with between(netns) as (hosts, daemon):
        server = subprocess.Popen([program("ip"), "netns", "exec", hosts.server, program("nginx"), "-c", tmp_path / "nginx.conf"])
        try:
            assert hosts.curl("--retry", "20", "--retry-connrefused", "--retry-delay", "1", f"http://{SERVER[0]}:81/").decode() == PAGE
            daemon.type("flow", "add", "web=tcp,tp_dst=81")
            daemon.type("attach", "http_strip", "web", "pattern=SECRET")
            daemon.type("flow", "add", "six=tcp6,tp_dst=81")
            daemon.type("attach", "http_strip", "six", "pattern=SECRET")
            yield hosts, daemon
        finally:
            server.terminate()
            server.wait()


@pytest.mark.parametrize("words", [(), ("-k",)], ids=["connection per request", "kept alive"])
@pytest.mark.parametrize("host", [SERVER[0], f"[{SERVER[1]}]"], ids=["IPv4", "IPv6"])
def test_ab_sees_every_page_stripped(stripped, host, words):
    """ab speaks HTTP/1.0 and counts an answer of another length than the first as failed."""
    hosts, daemon = stripped
    said = subprocess.run([program("ip"), "netns", "exec", hosts.client, program("ab"), "-n", "400", "-c", "8", "-s", "10", *words,
                           f"http://{host}:81/index.html"], capture_output=True, text=True, timeout=300, check=True).stdout
    told = {name: int(value) for name, value in re.findall(r"^(Complete requests|Failed requests|Document Length):\s+(\d+)", said, re.M)}
    assert told == {"Complete requests": 400, "Failed requests": 0, "Document Length": len(STRIPPED)}
    assert "Non-2xx" not in said and "last error" not in daemon.type("show")


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_the_page_stripped(stripped, tmp_path):
    hosts, _daemon = stripped
    said = subprocess.run([program("ip"), "netns", "exec", hosts.client, "chromium", "--headless", "--no-sandbox", "--disable-gpu",
                           f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"http://{SERVER[0]}:81/"],
                          capture_output=True, text=True, timeout=300, check=True).stdout
    assert said.count("<p>a  and more of it</p>") == 400 and "SECRET" not in said
