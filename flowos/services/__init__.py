"""Services on flows.

Two kinds live here.  The algorithms (allocation, balancing, offload, migration) are pure: state
in, actions out, no input or output, and nothing of the core.  The daemons, later, are thin
shells that run them.
"""
