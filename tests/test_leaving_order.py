"""What a reader held leaves in the order in which it came: between the directions, and between connections on one pair of ports."""
import flowos
from conversations import records, save
from flowos.testing import read_packets
from models.talk import Talk


class Keeper(flowos.Module):
    """Reads, and holds the last byte of each window until its direction is complete."""

    protocol, hold = "tcp", 600.0

    def process(self, window):
        window.release(keep=0 if window.complete else min(1, window.length))


def left(folder, packets, module=None, **config):
    """Run records past a Keeper; give the frames that came, and the packets that left."""
    target = folder / "out.pcap"
    with flowos.Engine(flowos.Config.offline(**config)) as engine:
        engine.add_port(save(folder, packets))
        engine.add_output(target)
        engine.attach(module or Keeper())
        engine.run()
        engine._check()
    return [frame for _, frame, *_ in packets], read_packets(target)


def test_both_directions_of_a_connection(tmp_path):
    """An acknowledgement of what was held goes behind it, and before the reset that came after."""
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=5).a(5, b"again", ack=0).b(0, b"yes", ack=10).a(10, ack=0, flags="R")
    for batch in (1, 2, 3, 256):
        came, packets = left(tmp_path, records(talk), batch=batch)
        assert [frame for _, frame in packets] == came, batch


def test_a_connection_whose_ports_a_new_one_takes(tmp_path):
    """Three connections in turn on one pair of ports, none of which ends: each leaves before the next one's SYN, in time."""
    packets = []
    for number in range(3):
        talk = Talk(isn_a=1000 + number * 500_000, isn_b=70_000 + number * 500_000)
        talk.now += number * 10**9
        packets += records(talk.open().a(0, b"hello", ack=0).b(0, ack=5))
    for batch in range(1, 15):
        came, there = left(tmp_path, packets, batch=batch, deliver_units=1)
        assert [frame for _, frame in there] == came, batch
        times = [ts for ts, _ in there]
        assert times == sorted(times), batch


class Writer(Keeper):
    """Holds likewise, and might edit."""

    mode = flowos.RDWR


def test_a_fin_that_contradicts_the_bytes_before_it(tmp_path):
    """It stands where held bytes begin, and came after them: it does not end the stream in front of them."""
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=0).a(0, ack=0, flags="F").b(0, ack=1).a(0, ack=0, flags="R")
    for batch in (1, 2, 256):
        came, there = left(tmp_path, records(talk), Writer(), batch=batch)
        sent = [[frame for frame in frames if frame[26:30] == bytes([10, 0, 0, 1])] for frames in (came, [frame for _, frame in there])]
        assert sent[0] == sent[1] and len(there) == len(came), batch
