"""What the modules that police traffic decide: token buckets, firewall rules."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowos
from flowos.modules.firewall import Firewall
from flowos.modules.rate_limit import SECOND, Bucket, RateLimit


@given(st.floats(1, 1e6), st.floats(1, 1e5), st.lists(st.tuples(st.integers(1, 5000), st.integers(0, SECOND)), max_size=60))
def test_a_bucket_never_lets_more_pass_than_rate_and_burst(rate, burst, packets):
    bucket, now, passed = Bucket(rate, burst), 0, []
    for size, gap in packets:
        now += gap
        if bucket.take(size, now):
            passed.append((now, size))
    for i, (begin, _) in enumerate(passed):
        for j in range(i, len(passed)):
            sizes = [size for _, size in passed[i:j + 1]]
            # One packet that is larger than the bucket may pass when it is full.
            assert sum(sizes) <= burst + rate * (passed[j][0] - begin) / SECOND + max(0, max(sizes) - burst) * len(sizes) + 1e-3


def test_time_that_runs_back_brings_no_tokens():
    bucket = Bucket(10, 10)
    assert bucket.take(10, 5 * SECOND) and not bucket.take(1, 4 * SECOND) and not bucket.take(1, 5 * SECOND)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": -1.0}, {"rate": 1, "burst": -1}, {"rate": 1, "per": "host"}])
def test_a_limit_that_cannot_be_is_refused(wrong):
    with pytest.raises(flowos.UsageError, match="rate_limit: .*expected"):
        RateLimit(**wrong)


def test_rules_are_read_from_texts_and_files(tmp_path):
    file = tmp_path / "rules"
    file.write_text("# comment\n\ntcp,tp_dst=23 -> reset   # telnet\nudp->drop\n")
    firewall = Firewall(["ip,nw_src=10.0.0.0/8 -> pass"], file=file)
    assert [(str(rule.match), rule.action) for rule in firewall.rules] == [
        ("ip,nw_src=10.0.0.0/8", "pass"), ("tcp,tp_dst=23", "reset"), ("udp", "drop")]


@pytest.mark.parametrize("wrong", [{"rules": ["tcp"]}, {"rules": ["tcp -> kill"]}, {"rules": ["tcq -> drop"]},
                                   {"default": "kill"}, {"file": "no/such/file"}])
def test_rules_that_cannot_be_are_refused(wrong):
    with pytest.raises(flowos.UsageError):
        Firewall(**wrong)
