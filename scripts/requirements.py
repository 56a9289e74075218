"""Print the Python requirements of a purpose, one per line, as the packaging files declare them.

    python scripts/requirements.py build run test      build: to compile; run: to use; else an extra
"""
import ast
import configparser
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
config = configparser.ConfigParser()
config.read(root / "setup.cfg")

for purpose in sys.argv[1:]:
    if purpose == "build":          # tomllib came with Python 3.11, and this runs on 3.10
        listed = re.search(r"^requires = (\[.*?\])", (root / "pyproject.toml").read_text(), re.M | re.S)
        lines = ast.literal_eval(listed[1])
    elif purpose == "run":
        lines = config["options"]["install_requires"].splitlines()
    else:
        lines = config["options.extras_require"][purpose].splitlines()
    print(*filter(None, lines), sep="\n")
