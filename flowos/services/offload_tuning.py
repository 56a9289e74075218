"""The factor of TFO's fourth step, tuned on line (the future work of D3.2 §2.4.2.2).

A low factor follows the traffic closely and changes many entries; a high one changes few and
leaves traffic with the controller.  Which is best depends on the traffic, on n, and on what a
change costs; `price` says the last: how many packets at the controller are as bad as a change.

What a factor would have cost is known, for packets are counted by prefix wherever they are
forwarded.  So each factor of a grid has a shadow: the entries that it would have in place, by
the same steps.  A shadow's cost in a step is the packets that its entries miss and the price of
its changes; costs of the past fade with `half_life`.  The factor of the cheapest shadow is used:
following the leader of experts whose losses are all seen.  Shadows are sets in memory; only the
chosen factor touches the switch.
"""
import numpy as np

from flowos import UsageError

from .offload import advance, check_limits

#: From "any gain pays" to "next to nothing does".
FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 200.0, 1000.0)


class Tuner:
    """Choose the factor for n entries at a price per change; `half_life` is in steps.

    `factor` is the one to use now.  A step costs as much as TFO's steps 2 to 4 for each factor of the
    grid.  UsageError: an argument out of range.

    >>> dear, cheap = Tuner(1, price=1000), Tuner(1, price=0)
    >>> for bin in range(24):                      # two prefixes that take turns to be first, by little
    ...     counts = np.roll([40, 50], bin // 3)
    ...     for tuner in (dear, cheap):
    ...         _ = tuner.step(counts, np.argsort(-counts)[:1])
    >>> dear.factor > 50 / 40 >= cheap.factor
    True
    """

    def __init__(self, n, price, factors=FACTORS, half_life=30.0):
        for factor in factors:
            check_limits(n, factor)
        if not len(factors):
            raise UsageError("factors: expected one at least")
        for name, value, least in (("price", price, 0), ("half_life", half_life, 1e-9)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
                raise UsageError(f"{name}: got {value!r}, expected a number {'above' if least else 'from'} 0")
        self.n, self.price, self.factors = n, price, tuple(factors)
        self.fading = 0.5 ** (1 / half_life)
        self.costs = np.zeros(len(factors))           # of each factor, the past faded
        self.shadows = [np.empty(0, np.int32) for _ in factors]
        self.begun = False
        self.factor = 2.0 if 2.0 in self.factors else self.factors[len(self.factors) // 2]     # the source's

    def step(self, counts, wanted):
        """Learn from a step: the packets of it by id, and step 1's candidates after it; give the factor."""
        total = int(counts.sum())
        for number, factor in enumerate(self.factors):
            shadow = self.shadows[number]
            after = advance(shadow, wanted, counts, self.n, factor)
            if self.begun:                            # to fill the entries first costs every factor the same
                cost = total - int(counts[shadow].sum()) + self.price * len(after.added)
                self.costs[number] = self.fading * self.costs[number] + cost
            self.shadows[number] = after.installed
        if self.begun:
            self.factor = self.factors[int(np.argmin(self.costs))]
        self.begun = True
        return self.factor
