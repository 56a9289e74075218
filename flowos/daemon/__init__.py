"""The daemon: an engine on live ports, ruled over a control socket while traffic runs.

    flowos attach … ─► XML-RPC on a Unix socket ─► thread of the connection ─► mailbox ─┐ bell
                                                                                        ▼
    main thread:   step ─ step ─ step ─ [commands, one task] ─ step ─ …      (engine, flows, modules)

The framework is D3.2's (section 3.1.1): a common class `Daemon`; *commands*, which block their
caller, and *tasks*, which do not, each a file that is found by its name; every call answers with a
`ReturnValue`.  The engine belongs to the main thread, which looks into the mailbox between two
steps: the data path takes no lock.
"""
from flowos.daemon.values import CODE_FAILURE, CODE_NOT_READY, CODE_SUCCESS, ReturnValue

__all__ = ["CODE_FAILURE", "CODE_NOT_READY", "CODE_SUCCESS", "ReturnValue"]
