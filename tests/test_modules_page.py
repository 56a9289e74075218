"""The page on modules names every module and parameter there is, and none that is not.

Its examples run in test_docs.py.
"""
import re
from pathlib import Path

import pytest

from flowos.parameters import parameters_of
from flowos.registry import all_modules

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "modules.md").read_text()
SECTIONS = {title: text for title, text in re.findall(r"^## (\w+)\n(.*?)(?=^#{1,2} |\Z)", PAGE, re.M | re.S)}


@pytest.mark.parametrize("name", sorted(all_modules()))
def test_a_module_has_its_section_and_parameters(name):
    assert name in SECTIONS and f"[{name}](#{name})" in PAGE
    section = SECTIONS[name]
    for parameter in parameters_of(all_modules()[name]):
        assert re.search(rf"`{parameter}[`=]", section), f"{name}: the page does not name {parameter}"
    assert "```sh run" in section or "```python run" in section, f"{name}: no example that runs"


def test_the_page_names_no_module_that_is_not():
    linked = set(re.findall(r"^\| \[(\w+)\]", PAGE, re.M))
    assert linked == set(all_modules())
