"""Begin a module or a decoder of your own: a working skeleton and its test.

    flowos new module redact        a module that edits: redact.py and test_redact.py
    flowos new module tally --reads
    flowos new decoder chat

The test passes as it is: run it with pytest, then make both your own. No existing file is touched.
"""
import importlib.util
import keyword
import os
import shutil
import sys

from . import OK, UsageFault


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("kind", choices=("module", "decoder"), help="what to begin")
    parser.add_argument("name", metavar="NAME", help="its name: lower case, digits and underscores")
    parser.add_argument("--reads", action="store_true", help="a module that only reads")
    parser.add_argument("--directory", "-d", default=".", metavar="DIR", help="where the files go (here)")


def class_name(name):
    """Give the class's name.

    >>> class_name("http_strip2")
    'HttpStrip2'
    """
    return "".join(part.capitalize() for part in name.split("_"))


def check(kind, name):
    """UsageFault unless a name can be a file's, and one that nothing has yet."""
    from flowos import get_decoder
    from flowos.registry import module_names

    if not name.isidentifier() or not name.isascii() or name != name.lower() or keyword.iskeyword(name) \
            or name.startswith("_") or not class_name(name).isidentifier():
        raise UsageFault(f"new: {name!r} is no name for a {kind}: expected lower case letters, digits and underscores")
    if name in module_names() if kind == "module" else get_decoder(name) is not None:
        raise UsageFault(f"new: there is a {kind} {name!r} already; choose another name")
    if name in sys.stdlib_module_names or name == "flowos":
        raise UsageFault(f"new: {name!r} would hide Python's module of that name; choose another name")


def python():
    """Spell the Python that runs FlowOS, as the shell here finds it."""
    found = shutil.which("python")
    return "python" if found and os.path.dirname(found) == os.path.dirname(sys.executable) else sys.executable


def run(arguments):
    """Run `flowos new`; the result is the exit code."""
    from . import new_skeletons

    kind, name = arguments.kind, arguments.name
    check(kind, name)
    if kind == "decoder" and arguments.reads:
        raise UsageFault("new: --reads is for modules")
    pair = {"decoder": new_skeletons.DECODER, "module": new_skeletons.READER if arguments.reads else new_skeletons.EDITOR}
    words = {"@name@": name, "@class@": class_name(name)}
    paths = [os.path.join(arguments.directory, file) for file in (f"{name}.py", f"test_{name}.py")]
    os.makedirs(arguments.directory, exist_ok=True)
    for path in paths:
        if os.path.lexists(path):
            raise UsageFault(f"new: {path} exists already; nothing was written")
    for path, text in zip(paths, pair[kind], strict=True):
        for mark, word in words.items():
            text = text.replace(mark, word)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    print(f"wrote {paths[0]} and {paths[1]}")
    if importlib.util.find_spec("pytest") is None:
        print(f"once: {python()} -m pip install pytest")
    print(f"try:  {python()} -m pytest {paths[1]}")
    if kind == "module":
        more = "--emit -" if arguments.reads else "-w out.pcap"
        print(f"      flowos run in.pcap {more} --attach {paths[0]}:{words['@class@']}")
    else:
        print(f"      a module in a file beside it says `import {name}` and `protocol = \"{name}\"`")
    return OK
