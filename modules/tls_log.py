"""Log TLS handshakes: who was asked for, what was agreed on, and the client's JA4 fingerprint.

    flowos run x.pcap --attach tls_log --emit tls.jsonl

A record per handshake, when the server has answered or the connection ends.  A server that asks
to try again (HelloRetryRequest, RFC 8446 section 4.1.4) has not answered yet.
"""
from flowos import Module
from flowos.emit import ends

MOST_HELLOS = 8            # kept per connection: a handshake has four at most


class TlsLog(Module):
    """Emit a record per TLS handshake.

    Keys: `ts` (ns, the client's hello or else the server's), `connection`, `proto`, `a`, `b`, `sni`,
    `alpn_offered`, `alpn` (the server's choice; encrypted in TLS 1.3: None), `versions` offered,
    `version` and `cipher` (code in hex) chosen, `ja4`, `retried`, `answered`.

    >>> from flowos import Engine
    >>> log, records = TlsLog(), []
    >>> log.emit = records.append
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     attachment = engine.attach(log)
    ...     engine.run()
    >>> [(record["sni"], record["version"], record["cipher"]) for record in records]
    [('www.flowos.example', 'TLS 1.3', '0x1302'), ('www.flowos.example', 'TLS 1.2', '0xc030')]
    """

    name = "tls_log"
    protocol = "tls"

    def __init__(self):
        self.hellos = {}                   # connection -> [(ts, hello), …] in the order of coming

    def process(self, window):
        for unit in window.units:
            if unit.kind in ("client_hello", "server_hello") and unit.info is not None:
                self.hellos.setdefault(window.connection.id, []).append((unit.ts, unit.info))
                # Without its client's, a server's hello waits: directions are lent one after the other.
                if len(self.hellos[window.connection.id]) > 1:
                    self.settle(window.connection)
                if len(self.hellos.get(window.connection.id, ())) > MOST_HELLOS:
                    self.closed(window.connection, None)

    def settle(self, connection):
        """Tell a handshake that has both its last hellos; what comes after begins another one."""
        hellos = sorted(self.hellos[connection.id], key=lambda hello: hello[0])
        asked = [hello for hello in hellos if hello[1].kind == "client"]
        answers = [hello for hello in hellos if hello[1].kind == "server"]
        retries = sum(hello.retry for _, hello in answers)
        if len(answers) > retries and len(asked) > retries:
            self.tell(connection, hellos)
            del self.hellos[connection.id]

    def tell(self, connection, hellos):
        """Emit the record of one handshake's hellos.

        A client's second hello, which answers a retry, repeats the first: the last one counts.
        """
        asked = [hello for _, hello in hellos if hello.kind == "client"]
        answers = [hello for _, hello in hellos if hello.kind == "server" and not hello.retry]
        hello, answer = asked[-1] if asked else None, answers[-1] if answers else None
        began, retried = hellos[0][0], any(hello.retry for _, hello in hellos)
        self.emit({
            "ts": began, **ends(connection),
            "sni": hello and hello.sni, "alpn_offered": list(hello.alpn) if hello else [],
            "alpn": answer.alpn[0] if answer and answer.alpn else None,
            "versions": list(hello.versions) if hello else [],
            "version": answer.versions[0] if answer else None,
            "cipher": f"{answer.cipher:#06x}" if answer and answer.cipher is not None else None,
            "ja4": getattr(hello, "ja4", None), "retried": retried, "answered": answer is not None,
        })

    def closed(self, connection, reason):
        hellos = self.hellos.pop(connection.id, None)
        if hellos:
            self.tell(connection, sorted(hellos, key=lambda hello: hello[0]))
