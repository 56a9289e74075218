"""What a daemon is to do, as a table, as TOML, and as a file that is whole or not there.

    [modules.http_strip]                       loaded, with the parameters that attachments start from
    parameters = { pattern = "SECRET" }

    [flows.web]
    match = "tcp,tp_dst=80"
    priority = 10

    [[flows.web.attach]]
    module = "http_strip"
    order = 1
"""
import contextlib
import json
import os
import sys
import tempfile

from flowos.core.errors import UsageError
from flowos.daemon.items import texts
from flowos.parameters import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLOW = {"match": str, "priority": int, "attach": list}
ATTACH = {"module": str, "order": int, "threads": str, "parameters": dict}
MODULE = {"spec": str, "parameters": dict}


def read(text, name="configuration"):
    """Give the configuration of a TOML text, checked and with its defaults; UsageError says where it is wrong.

    >>> read('[flows.web]\\nmatch = "tcp"\\n')
    {'modules': {}, 'flows': {'web': {'match': 'tcp', 'priority': 0, 'attach': []}}}
    """
    try:
        return checked(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: {error}") from None


def read_file(path):
    """Give the configuration of a TOML file; UsageError says where it is wrong, OSError that it cannot be read."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return read(data.decode(), path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: TOML is UTF-8, and byte {error.start} is none") from None


def checked(table, name="configuration"):
    """Give a table with its defaults filled in; UsageError names the field that is wrong."""
    _fields(table, {"modules": dict, "flows": dict}, name)
    made = {"modules": {}, "flows": {}}
    for title, module in table.get("modules", {}).items():
        _fields(module, MODULE, f"{name}: modules.{title}")
        made["modules"][title] = {"spec": module.get("spec", title), "parameters": texts(module.get("parameters", {}), f"{name}: modules.{title}")}
    for title, flow in table.get("flows", {}).items():
        where = f"{name}: flows.{title}"
        _fields(flow, FLOW, where)
        made["flows"][title] = {"match": flow.get("match", "any"), "priority": flow.get("priority", 0), "attach": []}
        for place, attach in enumerate(flow.get("attach", [])):
            _fields(attach, ATTACH, f"{where}.attach[{place}]")
            if "module" not in attach:
                raise UsageError(f"{where}.attach[{place}]: module is missing")
            if any(attach["module"] == other["module"] for other in made["flows"][title]["attach"]):
                raise UsageError(f"{where}.attach[{place}]: {attach['module']} is attached twice")
            made["flows"][title]["attach"].append({
                "module": attach["module"], "order": attach.get("order", 0), "threads": attach.get("threads", "inline"),
                "parameters": texts(attach.get("parameters", {}), f"{where}.attach[{place}]")})
    return made


def _fields(table, known, where):
    if not isinstance(table, dict):
        raise UsageError(f"{where}: {table!r:.60}, expected a table")
    for field, value in table.items():
        if field not in known:
            raise UsageError(f"{where}: there is no field {field!r:.60}; {nearest(str(field), known)}")
        if not isinstance(value, known[field]) or isinstance(value, bool):
            raise UsageError(f"{where}.{field} is {value!r:.60}, expected {known[field].__name__}")


def write(table):
    """Give the TOML text of a configuration; `read` gives it back."""
    lines = []
    for title, module in table["modules"].items():
        lines += [f"[modules.{_key(title)}]", f"spec = {_text(module['spec'])}",
                  f"parameters = {_inline(module['parameters'])}", ""]
    for title, flow in table["flows"].items():
        lines += [f"[flows.{_key(title)}]", f"match = {_text(flow['match'])}", f"priority = {flow['priority']}", ""]
        for attach in flow["attach"]:
            lines += [f"[[flows.{_key(title)}.attach]]", f"module = {_text(attach['module'])}", f"order = {attach['order']}",
                      f"threads = {_text(attach['threads'])}", f"parameters = {_inline(attach['parameters'])}", ""]
    return "\n".join(lines)


def _inline(table):
    return "{ " + ", ".join(f"{_key(name)} = {_text(value)}" for name, value in table.items()) + " }" if table else "{}"


def _key(text):
    return text if text.isascii() and text.replace("-", "_").isidentifier() else _text(text)


def _text(text):
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")    # a JSON string is a TOML string


def save(path, text):
    """Write a file so that it is, whatever happens, the old one or the new one, on disk when this returns."""
    folder = os.path.dirname(os.path.abspath(path))
    handle, part = tempfile.mkstemp(dir=folder, prefix=".save-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def changes(running, wanted):
    """Decide what leads from one configuration to another: a list of (command, parameter), pure.

    What is to go goes first; then flows, modules, attachments.  An attachment whose place or threads change is
    detached and attached; one whose parameters alone change is set.  Order 0 means: where it is, or last.

    >>> empty = {"modules": {}, "flows": {}}
    >>> changes(empty, read('[flows.web]\\\\nmatch = "tcp"'.replace("\\\\n", chr(10))))
    [('flow_add', {'name': 'web', 'match': 'tcp', 'priority': 0})]
    """
    going, coming = [], []
    stale = {name for name, module in running["modules"].items()
             if name in wanted["modules"] and module != wanted["modules"][name]}
    used = {attach["module"] for flow in wanted["flows"].values() for attach in flow["attach"]}
    for name, flow in running["flows"].items():
        if name not in wanted["flows"]:
            going.append(("flow_del", {"flow": name}))
            continue
        new = {attach["module"]: attach for attach in wanted["flows"][name]["attach"]}
        for attach in flow["attach"]:
            if attach["module"] not in new or attach["module"] in stale or _place(attach, new[attach["module"]]):
                going.append(("detach", {"module": attach["module"], "flow": name}))
    for name in running["modules"]:
        if name in stale or (name not in wanted["modules"] and name not in used):
            going.append(("unload", {"module": name}))
    for name, flow in wanted["flows"].items():
        old = running["flows"].get(name)
        if old is None:
            coming.append(("flow_add", {"name": name, "match": flow["match"], "priority": flow["priority"]}))
        elif (old["match"], old["priority"]) != (flow["match"], flow["priority"]):
            coming.append(("flow_mod", {"flow": name, "match": flow["match"], "priority": flow["priority"]}))
    for name, module in wanted["modules"].items():
        if name in stale or name not in running["modules"]:
            coming.append(("load", {"module": module["spec"], "parameters": module["parameters"]}))
    for name, flow in wanted["flows"].items():
        there = {attach["module"]: attach for attach in running["flows"].get(name, {"attach": []})["attach"]}
        for attach in flow["attach"]:
            old = there.get(attach["module"])
            if old is None or attach["module"] in stale or _place(old, attach):
                order = {"order": attach["order"]} if attach["order"] else {}
                coming.append(("attach", {"module": attach["module"], "flow": name, "threads": attach["threads"],
                                          "parameters": attach["parameters"], **order}))
            elif old["parameters"] != attach["parameters"]:
                coming.append(("set", {"module": attach["module"], "flow": name, "parameters": attach["parameters"],
                                       "only": True}))
    return going + coming


def _place(old, new):
    return old["threads"] != new["threads"] or new["order"] not in (0, old["order"])
