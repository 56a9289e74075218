"""What every test may ask for: captures, other programs, root, network namespaces.

A test whose need is not met here is skipped with the reason, and the run ends with a count
of skips by reason.  Hypothesis profiles: `default`; `checked`, fewer examples, for the
sanitizer rounds; `soak`, twenty times as many.  HYPOTHESIS_PROFILE picks one.
"""
import collections
import contextlib
import itertools
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ROOT.parent / "shared" / "pcaps"

# No deadlines: a shared machine stalls now and then.  In continuous integration a seed that
# nobody chose must not decide whether a change is right.  Shrinking is slow under a sanitizer,
# and the release round has shrunk the same failure.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile(
    "checked", parent=hypothesis.settings.get_profile("default"), max_examples=20,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate])
hypothesis.settings.register_profile(
    "soak", parent=hypothesis.settings.get_profile("default"), max_examples=2000, derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def project():
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def demo_capture():
    """The capture that `make demo` shows."""
    return ROOT / "examples" / "demo.pcap"


@pytest.fixture(scope="session")
def shared_pcaps():
    """The folder of real captures beside the project, or a skip."""
    if not CAPTURES.is_dir():
        pytest.skip("no captures in ../shared/pcaps")
    return CAPTURES


def program(name):
    """Give the path of a program, or skip the test that needs it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return path or pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def tshark():
    """The path of tshark, or a skip."""
    return program("tshark")


@pytest.fixture(scope="session")
def root():
    """Skip unless the tests run as root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def netns(root):
    """Make network namespaces for one test: `netns()` gives the name of a new one.

    Its loopback is up; it goes when the test ends, and with it all that was made in it.
    """
    import namespaces                         # which takes `program` from here
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:
        def make():
            name = f"flowos-test-{os.getpid()}-{next(numbers)}"
            namespaces.add(name, stack)
            return name
        yield make


def pytest_terminal_summary(terminalreporter):
    """Count the skipped tests by reason, so that no skip goes unseen."""
    reasons = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.section("skipped, by reason")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5d}  {reason}")
