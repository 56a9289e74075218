"""Start the daemon between two ports.

    flowos up --port lan=packet:eth0 --port wan=packet:eth1

Traffic passes from one port to the other from then on, and flows and modules come and go by `flowos
flow`, `load`, `attach` and the others while it runs. What was configured is saved, and taken up again at
the next start. Started as root it opens its ports and becomes an unprivileged user that keeps
CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF and CAP_IPC_LOCK; it loads modules only from folders that nobody but
root can write. Modules are trusted code.
"""
import os

from . import OK, UsageFault, explain


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("--port", action="append", default=[], metavar="NAME=SPEC", help="a port; two are needed")
    parser.add_argument("--foreground", action="store_true", help="do not go to the background")
    parser.add_argument("--socket", metavar="PATH", help="the control socket ($FLOWOS_SOCKET, or /run/flowos/flowosd.sock)")
    parser.add_argument("--state", metavar="PATH", help="the saved configuration ($FLOWOS_STATE, or /var/lib/flowos/flowosd.toml)")
    parser.add_argument("--user", default="", help="whom to become when started as root (nobody)")
    parser.add_argument("--modules-from", action="append", default=[], metavar="FOLDER",
                        help="load modules from this folder too (may be repeated)")
    parser.add_argument("--listen", metavar="HOST:PORT,CERT,KEY,CA", help="answer on TCP too, with certificates on both sides")
    parser.add_argument("--metrics", metavar="[HOST:]PORT", help="answer Prometheus there (HOST 127.0.0.1; needs flowos[metrics])")
    parser.add_argument("--log", metavar="PATH", help="where a daemon in the background writes (beside the configuration)")
    parser.add_argument("--ready", type=int, metavar="FD", help="a descriptor to say `ready` on")


def ports_of(words):
    """Read NAME=SPEC words.

    >>> ports_of(["lan=packet:eth0", "wan=packet:eth1"])
    {'lan': 'packet:eth0', 'wan': 'packet:eth1'}
    """
    found = {}
    for word in words:
        name, sign, spec = word.partition("=")
        if not (sign and name and spec) or name in found:
            raise UsageFault(f"up: --port {word}: expected NAME=SPEC, as in lan=packet:eth0, each name once")
        found[name] = spec
    if len(found) != 2:
        raise UsageFault(f"up: {len(found)} ports given, expected two: --port lan=SPEC --port wan=SPEC")
    return found


def address_of(text, host="127.0.0.1"):
    """Read [HOST:]PORT.

    >>> address_of("9100"), address_of("[::1]:9100")
    (('127.0.0.1', 9100), ('::1', 9100))
    """
    name, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UsageFault(f"up: {text}: expected [HOST:]PORT")
    return name.strip("[]") or host, int(port)


def settings_of(arguments):
    """Give the daemon's settings of the command's arguments."""
    from flowos.daemon.launch import Settings

    given = {name: os.path.abspath(path) for name, path in (("socket", arguments.socket), ("state", arguments.state)) if path}
    listen = None
    if arguments.listen:
        parts = arguments.listen.split(",")
        if len(parts) != 4 or not all(parts):
            raise UsageFault(f"up: --listen {arguments.listen}: expected HOST:PORT,CERT,KEY,CA")
        listen = (address_of(parts[0]), *parts[1:])
    return Settings(ports=ports_of(arguments.port), user=arguments.user, folders=tuple(arguments.modules_from), listen=listen,
                    metrics=address_of(arguments.metrics) if arguments.metrics else None, **given)


def again(arguments):
    """Give the words that start the same daemon in the foreground, wherever that is: paths are absolute."""
    words = [word for port in arguments.port for word in ("--port", port)]
    words += [word for folder in arguments.modules_from for word in ("--modules-from", os.path.abspath(folder))]
    words += [word for name in ("socket", "state") if (path := getattr(arguments, name))
              for word in (f"--{name}", os.path.abspath(path))]
    if arguments.listen:
        address, *paths = arguments.listen.split(",")
        words += ["--listen", ",".join([address, *map(os.path.abspath, paths)])]
    for name in ("user", "metrics"):
        if value := getattr(arguments, name):
            words += [f"--{name}", value]
    return words


def run(arguments):
    """Run `flowos up`; the result is the exit code."""
    from flowos import FlowOSError, UsageError
    from flowos.daemon.launch import background, serve, state_folder, told_ready, unprivileged

    settings = settings_of(arguments)
    if arguments.foreground:
        ready = told_ready(arguments.ready) if arguments.ready is not None else None
        try:
            serve(settings, ready)
        except (FlowOSError, OSError) as error:
            if ready is not None:
                ready(explain(error), isinstance(error, UsageError))
            raise
        return OK
    state_folder(settings.state, unprivileged(settings.user))
    log = os.path.abspath(arguments.log or f"{settings.state}.log")
    pid = background(again(arguments), log)
    print(f"flowosd runs as process {pid}; it answers at {settings.socket}")
    return OK
