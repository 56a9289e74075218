"""Hand-written TCP conversations and what must be delivered of them, under each policy.

VECTORS maps a name to a function and a configuration; the function gives (talk, items of a, items of
b, counters). They are written from the rules and from the RFCs, not from what some program did.
"""

from .talk import Talk, Vectors, whole

VECTORS = Vectors()
vector = VECTORS.add


# ----------------------------------------------------------------------------- plain conversations

@vector()
def plain():
    talk = Talk().open().a(0, b"GET ", ack=0).b(0, b"OK", ack=4).a(4, b"/x", ack=2)
    talk.a(6, ack=2, flags="F").b(2, ack=7, flags="F").a(7, ack=3)
    return talk, whole(b"GET /x", True), whole(b"OK", True), {}


@vector()
def sequence_numbers_wrap():
    talk = Talk(isn_a=2**32 - 4, isn_b=2**32 - 1).open()
    talk.a(4, b"efgh", ack=0).a(2, b"cdef", ack=0).a(0, b"ab", ack=0).b(0, b"x", ack=8).a(8, b"i", ack=1)
    return talk, whole(b"abcdefghi"), whole(b"x"), {"tcp_overlaps": 1}


@vector()
def retransmissions():
    talk = Talk().open().a(0, b"abc", ack=0).a(0, b"abc", ack=0).a(1, b"bcde", ack=0).a(0, b"ab", ack=0)
    return talk, whole(b"abcde"), [], {"tcp_retransmitted": 2}


@vector()
def keep_alive():
    talk = Talk().open().a(0, b"abc", ack=0).b(ack=3).a(2, b"\0", ack=0, after=20).b(ack=3)
    talk.a(3, b"def", ack=0)
    return talk, whole(b"abcdef"), [], {"tcp_retransmitted": 1}


@vector()
def zero_window_probe():
    talk = Talk().open().a(0, b"abc", ack=0).b(ack=3).a(3, b"d", ack=0, after=5).b(ack=3)
    talk.a(3, b"d", ack=0, after=5).b(ack=4).a(3, b"def", ack=0)
    return talk, whole(b"abcdef"), [], {"tcp_retransmitted": 1}


@vector()
def data_on_syn():
    talk = Talk().a(data=b"hi", flags="S").b(flags="S", ack=0).a(0, b"hi there", ack=0).b(0, b"yes", ack=8)
    return talk, whole(b"hi there"), whole(b"yes"), {}


@vector()
def simultaneous_open():
    talk = Talk().a(flags="S").b(flags="S").a(flags="S", ack=0).b(flags="S", ack=0)
    talk.a(0, b"from a", ack=0).b(0, b"from b", ack=6)
    return talk, whole(b"from a"), whole(b"from b"), {}


@vector()
def half_close():
    talk = Talk().open().a(0, b"all", ack=0, flags="F").b(ack=4).b(0, b"much ", ack=4).b(5, b"more", ack=4)
    return talk, whole(b"all", True), whole(b"much more"), {}


@vector()
def reset_with_payload():
    talk = Talk().open().a(0, b"abc", ack=0).b(0, b"go away", ack=3, flags="R")
    return talk, whole(b"abc"), whole(b"go away"), {}


@vector()
def nothing_ends_with_a_reset():
    talk = Talk().open().a(0, b"abc", ack=0).b(900, flags="R").a(3, b"def", ack=0)
    return talk, whole(b"abcdef"), [], {}


@vector()
def one_sided():
    talk = Talk().a(flags="S").a(0, b"abc", ack=0).a(5, b"fg", ack=0).a(3, b"de", ack=9).a(7, ack=9, flags="F")
    return talk, whole(b"abcdefg", True), [], {}


@vector()
def fin_without_ack_is_ignored():
    talk = Talk().open().a(0, b"abc", flags="F").a(3, b"def", ack=0)
    return talk, whole(b"abcdef"), [], {"tcp_fin_ignored": 1}


@vector()
def another_syn_ack_before_anything_was_said():
    talk = Talk().a(flags="S").b(flags="S", ack=0, isn=500).b(flags="S", ack=0)
    talk.a(ack=0).b(flags="S", ack=0, isn=500).b(0, b"abc", ack=0)
    return talk, [], whole(b"abc"), {"tcp_syn_ignored": 1}


@vector()
def another_syn_ack_later_is_ignored_with_its_payload():
    talk = Talk().open().b(0, b"abc", ack=0).b(flags="S", data=b"evil", ack=0, isn=500).b(3, b"def", ack=0)
    return talk, [], whole(b"abcdef"), {"tcp_syn_ignored": 1}


@vector()
def another_syn_ack_while_data_waits():
    talk = Talk().b(flags="S", ack=0).b(3, b"def", ack=0).b(flags="S", ack=0, isn=500).b(0, b"abc", ack=0)
    return talk, [], whole(b"abcdef"), {"tcp_syn_ignored": 1}


@vector()
def another_syn_ack_after_data_was_acknowledged():
    talk = Talk().open().b(0, b"abc", ack=0).a(ack=3).b(flags="S", ack=0, isn=500).b(3, b"def", ack=0)
    return talk, [], whole(b"abcdef"), {"tcp_syn_ignored": 1}


@vector()
def the_first_syn_again_after_a_syn_ack_from_elsewhere():
    talk = Talk().b(flags="S", isn=500).b(flags="S", ack=0).b(flags="S", isn=500).b(0, b"abc", ack=0)
    return talk, [], whole(b"abc"), {"tcp_syn_ignored": 1}


@vector()
def a_fin_goes_with_the_syn_it_belonged_to():
    talk = Talk().b(flags="S", ack=0, isn=500).b(5, ack=0, flags="F", isn=500).b(flags="S", ack=0)
    return talk.b(0, b"abcdefgh", ack=0), [], whole(b"abcdefgh"), {}


@vector()
def syn_and_fin_of_a_bare_reset_mean_nothing():
    talk = Talk().open().a(0, b"abc", ack=0).a(3, ack=0, flags="FR").b(flags="SR", ack=3, isn=500)
    talk.a(3, b"def", ack=0)
    return talk, whole(b"abcdef"), [], {}


@vector()
def forged_fin_before_the_syn_ack():
    talk = Talk().a(flags="S").b(flags="RA", ack=0, at=0, isn=-1).b(flags="FA", ack=0, at=0, isn=-1)
    talk.b(flags="S", ack=0).a(ack=0).b(0, b"abc", ack=0)
    return talk, [], whole(b"abc"), {}


# ----------------------------------------------------------------------------------------- pick-up

@vector()
def picked_up_where_the_receiver_waits():
    talk = Talk().b(50, ack=10).a(13, b"nop", ack=50).a(10, b"klm", ack=50).a(8, b"ij", ack=50)
    return talk, whole(b"klmnop"), [], {"tcp_before_start": 1, "tcp_picked_up": 1}


@vector()
def picked_up_by_a_later_ack():
    talk = Talk().a(13, b"nop", ack=50).a(10, b"klm", ack=50).b(50, ack=16).a(8, b"ij", ack=50)
    return talk, whole(b"klmnop"), [], {"tcp_before_start": 1}


@vector()
def picked_up_after_a_second():
    talk = Talk().a(13, b"nop", ack=50).a(10, b"klm", ack=50, after=1.0).a(16, b"q", ack=50).a(8, b"ijk", ack=50)
    return talk, whole(b"klmnopq"), [], {"tcp_before_start": 1}


@vector()
def not_picked_up_before_a_second():
    talk = Talk().a(13, b"nop", ack=50).a(10, b"klm", ack=50, after=0.5).a(16, b"q", ack=50, after=0.499)
    talk.a(8, b"ij", ack=50)
    return talk, whole(b"ijklmnopq"), [], {}


def dotted(first, last, origin=0):
    """Give the items of single bytes, every second one missing."""
    items = [item for at in range(first - origin, last - origin + 1, 2)
             for item in (("data", at, b"x"), ("gap", at + 1, 1))]
    return items[:-1]


@vector()
def picked_up_after_sixteen_pieces():
    talk = Talk()
    for at in range(100, 132, 2):
        talk.a(at, b"x", ack=50)
    talk.a(90, b"late", ack=50)
    return talk, dotted(100, 130, 100), [], {"tcp_before_start": 1, "tcp_gaps": 15}


@vector()
def not_picked_up_after_fifteen_pieces():
    talk = Talk()
    for at in range(100, 130, 2):
        talk.a(at, b"x", ack=50)
    talk.a(98, b"x", ack=50)
    return talk, dotted(98, 128, 98), [], {"tcp_gaps": 15}


@vector("first")
def picked_up_after_64_kib():
    talk = Talk().a(100000, b"x" * 40000, ack=50).a(60000, b"y" * 25535, ack=50).a(50000, b"z", ack=50)
    talk.a(40000, b"late", ack=50)
    items = [("data", 0, b"z"), ("gap", 1, 9999), ("data", 10000, b"y" * 25535), ("gap", 35535, 14465),
             ("data", 50000, b"x" * 40000)]
    return talk, items, [], {"tcp_before_start": 1, "tcp_gaps": 2}


@vector()
def picked_up_when_all_is_there_up_to_the_fin():
    talk = Talk().a(0, b"ab", ack=50).a(4, b"ef", ack=50, flags="F").a(2, b"cd", ack=50).a(-2, b"zz", ack=50)
    return talk, whole(b"abcdef", True), [], {"tcp_before_start": 1}


@vector(gap_seconds=30)
def picked_up_with_patience_while_the_receiver_waits():
    talk = Talk().b(50, ack=10)
    for at in range(100, 140, 2):
        talk.a(at, b"x", ack=50)
    talk.a(10, b"y" * 90, ack=50, after=29.9)
    return talk, [("data", 0, b"y" * 90 + b"x"), *dotted(100, 138, 10)[1:]], [], {"tcp_gaps": 19}


@vector()
def picked_up_at_the_end():
    talk = Talk().a(13, b"nop", ack=50).a(11, b"l", ack=50)
    return talk, [("data", 0, b"l"), ("gap", 1, 1), ("data", 2, b"nop")], [], {"tcp_gaps": 1}


@vector()
def a_fin_below_what_was_picked_up_is_ignored():
    talk = Talk().a(5, ack=50, flags="F").a(8, b"ijk", ack=50).a(11, b"lmn", ack=50)
    return talk, whole(b"ijklmn"), [], {"tcp_fin_ignored": 1}


@vector()
def a_fin_below_is_no_reason_to_begin():
    talk = Talk().b(50, ack=0).a(1, b"b", ack=50).a(0, ack=50, flags="F").a(0, b"a", ack=50)
    return talk, whole(b"", True), [], {"tcp_beyond_fin": 1}


@vector()
def far_from_what_was_picked_up():
    far = (1 << 30) + 1
    talk = Talk().a(0, b"abc", ack=50).a(far, b"x", ack=50).a(-far, b"y", ack=50)
    items = [("data", 0, b"y"), ("gap", 1, far - 1), ("data", far, b"abc"), ("gap", far + 3, far - 3),
             ("data", 2 * far, b"x")]
    return talk, items, [], {"tcp_gaps": 2}


@vector("bsd")
def what_was_picked_up_keeps_its_place():
    talk = Talk().b(50, ack=10).a(20, b"ooo", ack=50).a(10, b"x", ack=50).a(15, b"n" * 8, ack=50)
    talk.a(11, b"xxxx", ack=50)
    return talk, whole(b"xxxxx" + b"n" * 8), [], {"tcp_overlaps": 1, "tcp_conflicts": 1}


@vector("bsd", reassembly_pieces=2)
def what_begins_before_the_start_began_earlier():
    talk = Talk().b(50, ack=10).a(11, b"x", ack=50).a(13, b"oo", ack=50).a(10, b".nnnn", ack=50)
    return talk, whole(b"xnnn"), [], {"tcp_before_start": 1, "tcp_overlaps": 1, "tcp_conflicts": 1}


@vector(gap_packets=2)
def acknowledged_before_it_was_picked_up():
    talk = Talk().b(50, ack=30).a(20, b"x", ack=50).a(25, b"y", ack=50).b(50).b(50).a(21, b"wwww", ack=50)
    return talk, [("data", 0, b"x"), ("gap", 1, 4), ("data", 5, b"y")], [], \
        {"tcp_gaps": 1, "tcp_gap_by_ack": 1, "tcp_late_after_gap": 1}


@vector()
def the_syn_ack_comes_late():
    talk = Talk().b(3, b"def", ack=0).b(flags="S", ack=0).b(0, b"abc", ack=0)
    return talk, [], whole(b"abcdef"), {}


@vector()
def the_syn_ack_comes_late_and_from_elsewhere():
    talk = Talk().b((1 << 20) + 1, b"def", ack=0).b(flags="S", ack=0).b((1 << 20), b"c", ack=0)
    return talk, [], whole(b"cdef"), {"tcp_syn_ignored": 1}


@vector()
def the_syn_ack_comes_late_from_a_mebibyte_below():
    talk = Talk().b(1 << 20, b"def", ack=0).b(flags="S", ack=0)
    return talk, [], [("gap", 0, 1 << 20), ("data", 1 << 20, b"def")], {"tcp_gaps": 1}


# -------------------------------------------------------------------------------------------- holes

HOLED = [("data", 0, b"abc"), ("gap", 3, 2), ("data", 5, b"fgh")]


def with_hole():
    return Talk().open().a(0, b"abc", ack=0).a(5, b"fgh", ack=0)


@vector(gap_packets=3)
def closed_by_acknowledgement():
    talk = with_hole().b(ack=5).b(ack=8).b(ack=8).b(ack=8).a(3, b"de", ack=0)
    return talk, HOLED, [], {"tcp_gaps": 1, "tcp_late_after_gap": 1, "tcp_gap_by_ack": 1}


@vector(gap_packets=3)
def filled_by_the_last_packet_waited_for():
    talk = with_hole().b(ack=5).b(ack=8).b(ack=8).a(3, b"de", ack=0)
    return talk, whole(b"abcdefgh"), [], {}


@vector(gap_packets=3)
def not_closed_without_an_acknowledgement_of_all_of_it():
    talk = with_hole().b(ack=4).b(ack=4).b(ack=4).b(ack=4).b(ack=4).b(ack=4).a(3, b"de", ack=0)
    return talk, whole(b"abcdefgh"), [], {}


@vector(gap_packets=3)
def acknowledged_before_it_arrived():
    talk = Talk().open().a(0, b"abc", ack=0).b(ack=8).b(ack=8).b(ack=8).b(ack=8).a(5, b"fgh", ack=0)
    talk.b(ack=8).b(ack=8).a(3, b"de", ack=0)
    return talk, whole(b"abcdefgh"), [], {}


@vector(gap_packets=3)
def the_highest_acknowledgement_counts():
    talk = Talk().open().a(0, b"abc", ack=0).b(ack=8).b(ack=3).a(5, b"fgh", ack=0).b(ack=3).b(ack=3).b(ack=3)
    return talk.a(3, b"de", ack=0), HOLED, [], {"tcp_gaps": 1, "tcp_gap_by_ack": 1, "tcp_late_after_gap": 1}


@vector(gap_packets=2)
def only_what_is_acknowledged_is_closed():
    talk = with_hole().a(10, b"k", ack=0).b(ack=9).b(ack=9).b(ack=9).a(8, b"ij", ack=0)
    return talk, [*HOLED[:2], ("data", 5, b"fghijk")], [], {"tcp_gaps": 1, "tcp_gap_by_ack": 1}


@vector(gap_packets=3)
def an_absurd_acknowledgement_closes_nothing():
    talk = with_hole().b(ack=(1 << 30) + 4).b(ack=-5).b(ack=3).b(ack=3).b(ack=3).b(ack=3).a(3, b"de", ack=0)
    return talk, whole(b"abcdefgh"), [], {}


@vector(gap_packets=2)
def two_holes_are_acknowledged_at_once():
    talk = with_hole().a(10, b"k", ack=0).b(ack=11).b(ack=11).b(ack=11).a(3, b"defghij", ack=0)
    return talk, [*HOLED, ("gap", 8, 2), ("data", 10, b"k")], [], \
        {"tcp_gaps": 2, "tcp_late_after_gap": 1, "tcp_gap_by_ack": 2}


@vector(reassembly_bytes=4)
def closed_by_the_limit_of_bytes():
    talk = Talk().open().a(2, b"cd", ack=0).a(4, b"ef", ack=0).a(6, b"g", ack=0).a(0, b"ab", ack=0)
    return talk, [("gap", 0, 2), ("data", 2, b"cdefg")], [], \
        {"tcp_gaps": 1, "tcp_late_after_gap": 1, "tcp_gap_by_limit": 1}


@vector(reassembly_bytes=4)
def not_closed_below_the_limit_of_bytes():
    talk = Talk().open().a(2, b"cd", ack=0).a(4, b"ef", ack=0).a(0, b"ab", ack=0)
    return talk, whole(b"abcdef"), [], {}


@vector(reassembly_pieces=2)
def closed_by_the_limit_of_pieces():
    talk = Talk().open().a(2, b"c", ack=0).a(4, b"e", ack=0).a(6, b"g", ack=0).a(0, b"abcd", ack=0)
    items = [("gap", 0, 2), ("data", 2, b"cde"), ("gap", 5, 1), ("data", 6, b"g")]
    return talk, items, [], {"tcp_gaps": 2, "tcp_late_after_gap": 1, "tcp_gap_by_limit": 1, "tcp_gap_by_end": 1}


@vector(gap_seconds=30)
def closed_by_time():
    talk = with_hole().b(ack=3, after=30).a(3, b"de", ack=0)
    return talk, HOLED, [], {"tcp_gaps": 1, "tcp_late_after_gap": 1, "tcp_gap_by_time": 1}


@vector(gap_seconds=30)
def not_closed_before_its_time():
    talk = with_hole().b(ack=3, after=29.99).a(3, b"de", ack=0)
    return talk, whole(b"abcdefgh"), [], {}


@vector(gap_seconds=30)
def filled_by_the_packet_that_is_late():
    talk = with_hole().a(3, b"de", ack=0, after=40)
    return talk, whole(b"abcdefgh"), [], {}


@vector()
def the_client_has_taken_the_first_of_two_answers():
    talk = Talk().a(flags="S").b(flags="SA", ack=0).b(flags="SA", ack=0, isn=5_000_000).a(ack=0).b(0, b"abc", ack=0)
    return talk, [], whole(b"abc"), {}


@vector()
def the_client_has_taken_the_first_of_two_answers_though_the_second_is_lower():
    talk = Talk().a(flags="S").b(flags="SA", ack=0).b(flags="SA", ack=0, isn=3).a(0, b"q", ack=0).b(0, b"abc", ack=1)
    return talk, whole(b"q"), whole(b"abc"), {}


@vector(gap_seconds=30)
def not_closed_while_it_is_being_filled():
    talk = Talk().open().a(10**6, b"forged", ack=0)
    for at in range(0, 8, 2):
        talk.a(at, b"ab", ack=0, after=29)
    return talk, [("data", 0, b"ab" * 4), ("gap", 8, 10**6 - 8), ("data", 10**6, b"forged")], [], {
        "tcp_gaps": 1, "tcp_gap_by_end": 1}


@vector(gap_seconds=30)
def closed_when_nothing_has_filled_it_for_its_time():
    talk = with_hole().a(3, b"d", ack=0, after=29).b(ack=4, after=29).b(ack=4, after=1).a(4, b"e", ack=0)
    return talk, [("data", 0, b"abcd"), ("gap", 4, 1), ("data", 5, b"fgh")], [], {
        "tcp_gaps": 1, "tcp_late_after_gap": 1, "tcp_gap_by_time": 1}


@vector()
def closed_by_the_end():
    talk = with_hole().a(9, b"j", ack=0)
    return talk, [*HOLED, ("gap", 8, 1), ("data", 9, b"j")], [], {"tcp_gaps": 2, "tcp_gap_by_end": 2}


@vector(gap_packets=0)
def late_and_new_at_once():
    talk = with_hole().b(ack=8).a(4, b"efghij", ack=0)
    return talk, [*HOLED[:2], ("data", 5, b"fghij")], [], {"tcp_gaps": 1, "tcp_late_after_gap": 1, "tcp_gap_by_ack": 1}


# ----------------------------------------------------------------------------- the edges of a stream

@vector()
def beyond_the_fin():
    talk = Talk().open().a(0, b"abc", ack=0).a(3, ack=0, flags="F").a(3, b"evil", ack=0).a(1, b"bcde", ack=0)
    return talk, whole(b"abc", True), [], {"tcp_beyond_fin": 2}


@vector()
def buffered_beyond_a_later_fin():
    talk = Talk().open().a(2, b"cXYZ", ack=0).a(3, ack=0, flags="F").a(0, b"ab", ack=0)
    return talk, whole(b"abc", True), [], {"tcp_beyond_fin": 1}


@vector()
def the_first_fin_stands():
    talk = Talk().open().a(0, b"abc", ack=0).a(6, ack=0, flags="F").a(5, ack=0, flags="F").a(3, b"def", ack=0)
    return talk, whole(b"abcdef", True), [], {"tcp_fin_ignored": 1}


@vector()
def a_fin_in_the_past_or_far_away_is_ignored():
    talk = Talk().open().a(0, b"abc", ack=0).a(2, ack=0, flags="F").a(4 + (1 << 30), ack=0, flags="F")
    talk.a(3, b"def", ack=0)
    return talk, whole(b"abcdef"), [], {"tcp_fin_ignored": 2}


@vector()
def missing_tail():
    talk = Talk().open().a(0, b"abc", ack=0).a(6, ack=0, flags="F").b(ack=7)
    return talk, [("data", 0, b"abc"), ("gap", 3, 3), ("fin", 6)], [], {"tcp_gaps": 1, "tcp_gap_by_end": 1}


@vector()
def out_of_window():
    talk = Talk().open().a(1 << 30, b"y", ack=0).a((1 << 30) + 1, b"x", ack=0).a(-(1 << 30), b"z", ack=0)
    return talk, [("gap", 0, 1 << 30), ("data", 1 << 30, b"y")], [], \
        {"tcp_gaps": 1, "tcp_out_of_window": 1, "tcp_before_start": 1}


@vector()
def before_the_start():
    talk = Talk().open().a(-1, b"\0", ack=0).a(-1, b"\0ab", ack=0)
    return talk, whole(b"ab"), [], {"tcp_before_start": 2}


@vector()
def cut_by_the_snaplen():
    talk = Talk().open().a(0, (b"ab", 3), ack=0).a(5, b"f", ack=0).a(0, b"abcde", ack=0).a(6, 4, ack=0)
    items = [("data", 0, b"ab"), ("gap", 2, 3), ("data", 5, b"f"), ("gap", 6, 4)]
    return talk, items, [], {"tcp_retransmitted": 1, "tcp_cut_bytes": 7}


@vector()
def data_replaces_what_was_cut():
    talk = Talk().open().a(1, (b"b", 3), ack=0).a(3, b"DE", ack=0).a(0, b"a", ack=0)
    return talk, [("data", 0, b"ab"), ("gap", 2, 1), ("data", 3, b"DE")], [], {}


@vector()
def what_was_cut_replaces_no_data():
    talk = Talk().open().a(3, b"D", ack=0).a(1, (b"b", 4), ack=0).a(0, b"a", ack=0)
    return talk, [("data", 0, b"ab"), ("gap", 2, 1), ("data", 3, b"D"), ("gap", 4, 2)], [], {}
