"""Balance traffic over machines by prefixes: the algorithm of D3.2 §2.2, made for heavy tails too.

`balance` is pure: loads and machines in, a `Balance` out, that is a plan, what it does to the
machines, and what no plan could do better (`unsplittable`, `bound`).  A controller makes one plan at the start.
Then it polls the servers for their loads, mends the plan when the imbalance grows
(balancing_mend.py), and installs its rules (balancing_rules.py); which connections must stay or
move with a change, balancing_moves.py says.
"""
from flowos.services.balancing_loads import Loads
from flowos.services.balancing_plan import Fleet, Machine, Plan
from flowos.services.balancing_space import Space
from flowos.services.balancing_work import SLACK, Balance, Move, Work

__all__ = ["Balance", "Fleet", "Loads", "Machine", "Move", "Plan", "Space", "balance"]

#: The most load a machine may have over what it is meant to have, and the chunk threshold as a part
#: of the mean load (§2.2.5, §2.2.7).
IMBALANCE, CHUNK_THRESHOLD = 1.1, 0.2


def balance(loads, machines, imbalance=IMBALANCE, chunk=CHUNK_THRESHOLD, finest=None, share=False):
    """Make a plan from nothing by the greedy of §2.2.4.

    `imbalance` is the maximum allowed, `chunk` the chunk threshold as a part of the mean load.
    `finest` (Space.finest) bounds how long prefixes may get; `share` allows hash groups for
    what is too hot even so.  Without any load it is taken to be uniform (§2.2.5).
    Where several parts that cannot be split are near a machine's quota, the imbalance may exceed
    both the maximum and `bound`: to pack them is the bin packing problem, and this is a greedy.
    O(prefixes * bits * log(prefixes)).  UsageError: parameters out of range, no machines.

    >>> loads = Loads.uniform(Space("src"))
    >>> made = balance(loads, [Machine("a"), Machine("b"), Machine("c", 2.0)])
    >>> made.plan.machines[2].name, made.imbalance <= 1.1, len(made.plan)
    ('c', True, 4)
    """
    work = Work(loads, Fleet(machines), imbalance, chunk, finest, share)
    work.start()
    made = work.balance(work.plan(fewest=False))
    if made.imbalance <= max(imbalance, made.bound) * SLACK:
        return made
    work.relieve()                                        # what fits nowhere went where others had settled
    return work.balance(work.plan())
