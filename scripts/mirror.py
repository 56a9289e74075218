"""Keep a second copy of the source tree, in which another build profile compiles in place.

    python scripts/mirror.py build/asan/tree

Files are copied when they changed and removed when they are gone; what was compiled in the
copy stays.  The copy finds `flowos.decoders` and `flowos.modules` through links, because no
installer has mapped them, and the captures beside the project through another link.
"""
import shutil
import sys
from pathlib import Path

NAMES = ("flowos", "decoders", "modules", "tests", "examples", "benchmarks", "docs", "setup.py", "setup.cfg",
         "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
COMPILED = (".so", ".pyc", ".c")

root = Path(__file__).resolve().parent.parent
copy = Path(sys.argv[1]).resolve()


def files(top):
    """Give the source files under `top`, relative to it."""
    return {path.relative_to(top) for name in NAMES
            for path in [top / name, *(top / name).rglob("*")]
            if path.is_file() and not (path.suffix == ".so" or "__pycache__" in path.parts)
            and not any(part.is_symlink() for part in path.parents)}


def link(path, target):
    """Make `path` a symbolic link to `target`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target)


wanted = files(root)
for name in files(copy) - wanted:
    if name.suffix not in COMPILED or name.parts[0] == "tests":
        (copy / name).unlink()
for name in wanted:
    source, target = root / name, copy / name
    if not target.exists() or target.stat().st_mtime_ns != source.stat().st_mtime_ns:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
link(copy / "flowos" / "decoders", "../decoders")
link(copy / "flowos" / "modules", "../modules")
if (root.parent / "shared").is_dir():
    link(copy.parent / "shared", root.parent / "shared")
