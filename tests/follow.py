"""The TCP streams of a capture as tshark reassembles them: input for the decoders' tests.

tshark's follower is independent of FlowOS's own reassembly, so that a decoder's test fails for
the decoder's faults alone.  It gives up a gap only when the other side acknowledged past it, and
drops segments that come after their acknowledgement.
"""
import json
import re
import subprocess

MISSING = re.compile(rb"\[(\d+) bytes missing in capture file\]\0?")


def follow(tshark, path, streams):
    """Give {stream: [(direction, piece)]}, in the order of arrival.

    A piece is bytes, or the length of a gap as an int; direction 0 is the first sender's.
    """
    command = [tshark, "-r", str(path), "-q", "-o", "ip.defragment:TRUE",
               "-o", "tcp.reassemble_out_of_order:TRUE"]
    for stream in streams:
        command += ["-z", f"follow,tcp,raw,{stream}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    result, pieces = {}, None
    for line in done.stdout.splitlines():
        if match := re.match(r"Filter: tcp\.stream eq (\d+)", line):
            pieces = result.setdefault(int(match[1]), [])
        elif re.fullmatch(r"\t?[0-9a-f]+", line):
            piece = bytes.fromhex(line.strip())
            gap = MISSING.fullmatch(piece)
            pieces.append((int(line.startswith("\t")), int(gap[1]) if gap else piece))
    return result


def oracle(path):
    """Load what the oracle beside a capture says."""
    return json.loads(path.with_name(path.name + ".json").read_text())


def play(recorder, pieces):
    """Feed a stream's pieces to a Recorder and finish both directions; return its records."""
    for direction, piece in pieces:
        if isinstance(piece, int):
            recorder.gap(direction, piece)
        else:
            recorder.feed(direction, piece)
    for direction in (0, 1):
        recorder.finish(direction)
    return recorder.records
