"""Look for what keeps FlowOS from working here, and mend it.

Without an interface: the kernel and this process's rights.  With interfaces: also their settings, as ports.  --fix
carries out the remedies that are settings of the named interfaces; how they were is written down first, and
--restore puts everything back, also what a killed process left.
"""
import dataclasses
import json
import sys

from . import FAILED, OK, UsageFault


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("interfaces", metavar="IFACE", nargs="*", help="network interface that is to be a port")
    parser.add_argument("--sender", metavar="IFACE", action="append", default=[],
                        help="interface here whose frames reach a port without a wire, such as a veth's other end")
    parser.add_argument("--fix", action="store_true", help="carry out the remedies that are settings of these interfaces")
    parser.add_argument("--restore", action="store_true", help="put back every setting that was changed")
    parser.add_argument("--journal", metavar="FILE", help="journal of changed settings (default: /run/flowos/settings.journal)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments):
    """Run `flowos doctor`; the result is the exit code: 1 when something is bad and was not mended."""
    from flowos.hostsettings import JOURNAL, Journal

    journal = Journal(arguments.journal or JOURNAL)
    if arguments.restore:
        if arguments.fix or arguments.interfaces or arguments.sender:
            raise UsageFault("doctor: --restore stands alone: it puts back every setting that was changed")
        return restore(journal, arguments.json)
    if arguments.fix and not (arguments.interfaces or arguments.sender):
        raise UsageFault("doctor: --fix: expected the interfaces whose settings may be changed")
    findings = examine(arguments)
    mended = mend(journal, findings) if arguments.fix else {}
    if mended:
        findings = examine(arguments)
    if arguments.json:
        told = [{key: value for key, value in dataclasses.asdict(f).items() if key != "fix"} for f in findings]
        sys.stdout.write(json.dumps({"findings": told, "changed": list(mended.values())}) + "\n")
    else:
        show(findings, mended)
    return FAILED if any(finding.state == "bad" for finding in findings) else OK


def examine(arguments):
    """List the findings."""
    from flowos.hostchecks import check_host, check_interface, check_sender

    findings = list(check_host())
    for name in arguments.interfaces:
        findings += check_interface(name)
    for name in arguments.sender:
        findings += check_sender(name)
    return findings


def mend(journal, findings):
    """Carry out remedies; {number: what was done or why not}."""
    done = {}
    for number, finding in enumerate(findings):
        if finding.state == "ok" or finding.fix is None:
            continue
        try:
            journal.change(finding.interface, *finding.fix)
            done[number] = f"{finding.interface}: {finding.remedy}"
        except OSError as error:
            done[number] = f"{finding.interface}: {finding.remedy}: failed: {error.strerror or error}"
    return done


def show(findings, mended):
    """Print findings, a line each and a line for the remedy."""
    for finding in findings:
        where = f"{finding.interface}: " if finding.interface else ""
        print(f"{finding.state:<9}{where}{finding.text}")
        if finding.state != "ok" and finding.remedy:
            print(f"{'':<9}  remedy: {finding.remedy}")
    for line in mended.values():
        print(f"changed  {line}")


def restore(journal, as_json):
    """Put everything back; 1 where something could not be."""
    done = journal.restore()
    if as_json:
        sys.stdout.write(json.dumps([{**line, "problem": problem} for line, problem in done]) + "\n")
    else:
        for line, problem in done:
            print(f"restored {line['interface']}: {line['setting']}" if problem is None
                  else f"left     {line['interface']}: {line['setting']}: {problem}")
        if not done:
            print("nothing was changed")
    left = journal.entries
    return FAILED if any(line in left for line, _problem in done) else OK
