"""An addon of mitmproxy that strips a pattern from response bodies: the rival of http_strip in live_path.py.

    mitmdump -s benchmarks/live_mitm.py --set strip_streams=true|false

Without `strip_streams` it does as mitmproxy's documentation shows, on whole bodies; with it, on each piece as it comes,
which is the cheapest that mitmproxy offers and misses what lies across two pieces.
"""
from mitmproxy import ctx

PATTERN = b"SECRET"


def load(loader):
    """Declare the option."""
    loader.add_option("strip_streams", bool, False, "edit pieces instead of whole bodies")


def responseheaders(flow):
    """Have pieces edited as they come; their length is then not known beforehand."""
    if ctx.options.strip_streams:
        flow.response.headers.pop("content-length", None)
        flow.response.headers["transfer-encoding"] = "chunked"
        flow.response.stream = lambda data: data.replace(PATTERN, b"")


def response(flow):
    """Edit a whole body."""
    if not ctx.options.strip_streams:
        flow.response.content = flow.response.content.replace(PATTERN, b"")
