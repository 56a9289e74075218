"""Watch the daemon live: ports, flows, each module's head and tail, rates per second, drops by reason.

q or Ctrl-C ends it. --once prints one view, --json what the view is made of, a line each time. A rate is
what was counted from one look to the next.
"""
import contextlib
import json
import select
import sys
import time

from flowos.core.errors import FlowOSError

from . import OK, UsageFault
from .daemon_calls import client, configure_socket
from .top_rates import rates


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("--once", action="store_true", help="one view, and no more")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="from one look to the next (1)")
    configure_socket(parser)


def looks(daemon, interval, wait):
    """Yield what the daemon tells, with rates since the look before, until `wait(seconds)` says to end."""
    before = daemon.command("top")
    while wait(interval):
        now = daemon.command("top")
        yield {**now, "rates": rates(before, now)}
        before = now


def slept(seconds):
    """Wait, and go on."""
    time.sleep(seconds)
    return True


@contextlib.contextmanager
def keyboard():
    """Give a `wait` that a q on the terminal ends; the terminal is put back afterwards."""
    if not sys.stdin.isatty():
        yield slept
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield unasked
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def unasked(seconds):
    """Wait; False when q was typed, or nobody can type any more."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0] and sys.stdin.read(1) in ("q", "Q", ""):
            return False
    return True


def run(arguments):
    """Run `flowos top`; the result is the exit code."""
    if not 0.05 <= arguments.interval <= 3600:
        raise UsageFault(f"top: --interval {arguments.interval:g}: expected 0.05 to 3600 seconds")
    daemon = client(arguments)
    if arguments.json:
        for told in looks(daemon, arguments.interval, slept):
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            if arguments.once:
                break
        return OK
    try:
        from .top_view import console, live, view
    except ModuleNotFoundError as error:
        raise FlowOSError(f"top: {error.name} is not installed; `pip install 'flowos[top]'` brings it") from None
    if arguments.once:
        console().print(view(next(looks(daemon, arguments.interval, slept))))
        return OK
    with contextlib.suppress(KeyboardInterrupt), keyboard() as wait, live() as screen:
        for told in looks(daemon, arguments.interval, wait):
            screen.update(view(told), refresh=True)
    return OK
