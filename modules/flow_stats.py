"""Flow statistics for NumPy: packets, bytes, sizes and inter-arrival times per connection and direction.

    flowos run x.pcap --attach flow_stats --emit flows.parquet

One window over the whole flow brings a row per packet; each call sorts its rows by connection once
and folds them into running sums with a few array operations.  Mean and variance are merged batch
by batch (Chan, Golub and LeVeque 1979), so that no precision goes with long flows.  Names and
definitions are NFStream's, and so are units: milliseconds, bytes of the frame, the sample deviation.
"""
import numpy as np

from flowos import Module
from flowos.emit import ends

SIDES = ("bidirectional", "src2dst", "dst2src")
FIRST_ROOM = 1024          # connections alive at once before the arrays grow

#: What is kept per connection and side; `ps` is about packets' sizes, `piat` about the times between them.
MOMENTS = [("count", "i8"), ("min", "f8"), ("max", "f8"), ("mean", "f8"), ("m2", "f8")]
STATE = np.dtype([("bytes", "i8"), ("first", "i8"), ("last", "i8"), ("ps", MOMENTS), ("piat", MOMENTS)])


class FlowStats(Module):
    """Emit the statistics of each connection when it ends.

    Keys: `ts`, `connection`, `proto`, `a`, `b`, `end_reason`, and for each of `bidirectional`, `src2dst` (a to b),
    `dst2src`: `_first_seen_ms`, `_last_seen_ms`, `_duration_ms`, `_packets`, `_bytes`, `_min_ps`, `_mean_ps`,
    `_stddev_ps`, `_max_ps`, `_min_piat_ms`, `_mean_piat_ms`, `_stddev_piat_ms`, `_max_piat_ms`, `_syn_packets`,
    `_fin_packets`, `_rst_packets`.  A side without packets has zeros, as in NFStream.

    >>> from flowos import Engine
    >>> stats, records = FlowStats(), []
    >>> stats.emit = records.append
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     attachment = engine.attach(stats)
    ...     engine.run()
    >>> dns = next(record for record in records if record["b"].endswith(":53"))
    >>> dns["bidirectional_packets"], dns["src2dst_bytes"], dns["dst2src_mean_ps"]
    (2, 78, 94.0)
    """

    name = "flow_stats"
    protocol = "frame"
    scope = "flow"

    def __init__(self):
        self.sums = np.zeros((FIRST_ROOM, len(SIDES)), STATE)   # by the connection's slot, and side

    def process(self, window):
        rows = window.array()
        if not len(rows):
            return
        slots = rows["connection"].astype(np.int64)
        self.make_room(int(slots.max()) + 1)
        state = self.sums.reshape(-1)
        fold(state, slots * len(SIDES), rows)
        fold(state, slots * len(SIDES) + 1 + rows["direction"], rows)

    def make_room(self, slots):
        """Grow the arrays to so many connections."""
        if slots > len(self.sums):
            grown = np.zeros((max(slots, 2 * len(self.sums)), len(SIDES)), STATE)
            grown[:len(self.sums)] = self.sums
            self.sums = grown

    def closed(self, connection, reason):
        if connection.slot >= len(self.sums):
            return                        # it began before the module was attached, and said nothing since
        sides, ways = self.sums[connection.slot], (connection.a_to_b, connection.b_to_a)
        if sides[0]["ps"]["count"]:
            record = {"ts": connection.first_ns, **ends(connection), "end_reason": reason}
            for name, side in zip(SIDES, sides, strict=True):
                record.update(features(name, side))
            for flag in ("syn", "fin", "rst"):
                counts = [getattr(way, flag) for way in ways]
                for name, count in zip(SIDES, [sum(counts), *counts], strict=True):
                    record[f"{name}_{flag}_packets"] = count
            self.emit(record)
        self.sums[connection.slot] = 0   # the slot serves again


def fold(state, keys, rows):
    """Fold packets into the running statistics of their keys; `rows` are in the order of coming."""
    order = np.argsort(keys, kind="stable")
    keys, times = keys[order], rows["ts"][order]
    sizes = rows["wire"][order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    groups = keys[starts]
    begun = state["ps"]["count"][groups] > 0
    # The gap before a group's first packet reaches back to the last packet of an earlier call.
    gaps = np.empty(len(times), np.float64)
    gaps[1:] = times[1:] - times[:-1]
    gaps[starts] = np.where(begun, times[starts] - state["last"][groups], np.nan)
    merge(state["ps"], groups, sizes, starts)
    known = ~np.isnan(gaps)
    if known.any():
        gap_keys = keys[known]
        gap_starts = np.flatnonzero(np.r_[True, gap_keys[1:] != gap_keys[:-1]])
        merge(state["piat"], gap_keys[gap_starts], gaps[known] / 1e6, gap_starts)
    state["bytes"][groups] += np.add.reduceat(rows["wire"][order].astype(np.int64), starts)
    lasts = np.r_[starts[1:], len(times)] - 1
    state["first"][groups] = np.where(begun, state["first"][groups], times[starts])
    state["last"][groups] = times[lasts]


def merge(moments, groups, values, starts):
    """Merge groups of values into running count, min, max, mean and sum of squared deviations.

    Group i is values[starts[i]:starts[i + 1]] and belongs to moments[groups[i]].

    >>> moments = np.zeros(1, MOMENTS)
    >>> for batch in ([1.0, 2.0], [6.0]):
    ...     merge(moments, np.array([0]), np.array(batch), np.array([0]))
    >>> moments[0].tolist()
    (3, 1.0, 6.0, 3.0, 14.0)
    """
    count = np.diff(np.r_[starts, len(values)])
    mean = np.add.reduceat(values, starts) / count
    m2 = np.add.reduceat((values - np.repeat(mean, count)) ** 2, starts)
    before = moments[groups]
    total, delta = before["count"] + count, mean - before["mean"]
    fresh = before["count"] == 0
    least, most = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    moments["min"][groups] = np.where(fresh, least, np.minimum(before["min"], least))
    moments["max"][groups] = np.where(fresh, most, np.maximum(before["max"], most))
    moments["mean"][groups] = before["mean"] + delta * count / total
    moments["m2"][groups] = before["m2"] + m2 + delta ** 2 * before["count"] * count / total
    moments["count"][groups] = total


def features(name, side):
    """Give one side's features, {name: Python number}."""
    first, last = int(side["first"]) // 10**6, int(side["last"]) // 10**6
    found = {"first_seen_ms": first, "last_seen_ms": last, "duration_ms": (int(side["last"]) - int(side["first"])) / 1e6,
             "packets": int(side["ps"]["count"]), "bytes": int(side["bytes"])}
    for kind, unit in (("ps", ""), ("piat", "_ms")):
        count, least, most, mean, m2 = side[kind].item()
        deviation = (m2 / (count - 1)) ** 0.5 if count > 1 else 0.0
        found.update({f"min_{kind}{unit}": least, f"mean_{kind}{unit}": mean, f"stddev_{kind}{unit}": deviation,
                      f"max_{kind}{unit}": most})
    return {f"{name}_{key}": value for key, value in found.items()}
