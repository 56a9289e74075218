"""What tshark complains of in a capture: wrong checksums, and what its TCP analysis marks."""
import collections
import subprocess

FLAGS = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment",
         "ack_lost_segment", "duplicate_ack", "zero_window", "window_full", "keep_alive", "reused_ports")
CHECKSUMS = ("ip.checksum.status", "tcp.checksum.status", "udp.checksum.status")


def anomalies(tshark, path):
    """Count tshark's complaints about a capture by kind: {kind: packets}."""
    command = [tshark, "-r", path, "-T", "fields", "-E", "separator=,", "-E", "occurrence=a", "-E", "aggregator=;",
               "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    for flag in FLAGS:
        command += ["-e", f"tcp.analysis.{flag}"]
    for status in CHECKSUMS:
        command += ["-e", status]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = collections.Counter()
    for line in done.stdout.splitlines():
        cells = line.split(",")
        for flag, cell in zip(FLAGS, cells, strict=False):
            found[flag] += bool(cell)
        for status, cell in zip(CHECKSUMS, cells[len(FLAGS):], strict=True):
            found[status] += "0" in cell.split(";")         # 0 is bad, 1 good, 2 unverified
    return +found


def new_anomalies(tshark, before, after):
    """Give what tshark complains of in one capture and did not in another: {kind: how many more}.

    Whether bytes that come again are a retransmission, a fast or a spurious one, or out of order,
    tshark decides by time and by what it saw before; they are one kind here.
    """
    return _families(anomalies(tshark, after)) - _families(anomalies(tshark, before))


def _families(found):
    """Count repetitions as one kind."""
    again = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
    counts = collections.Counter({kind: n for kind, n in found.items() if kind not in again})
    counts["repeated"] = sum(found[kind] for kind in ("retransmission", "out_of_order"))
    return +counts
