"""Which requests a header assigns to a side: the file ``sides``, which the routers read beside the routes.

It is a separate file so that a router of a release before, which rejects a line of the routes that it does not know,
goes on following the routes: it draws these requests.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from mlmodel_operator.api.types import HEADER, HEADER_VALUE, MLModel


@dataclass(frozen=True)
class Sides:
    """The rules by which requests are assigned and not drawn.

    With ``sticky``, a request goes to the candidate if the hash of the header, keyed with ``key``, is below the weight
    of the candidate. With ``match``, a request whose header has one of the ``values`` goes to the candidate.
    ``is_open`` is whether requests may choose the candidate at a weight of 0, which otherwise means that the candidate
    must get none.
    """

    sticky: str = ""
    key: str = ""
    match: str = ""
    values: tuple[str, ...] = ()
    is_open: bool = False

    def text(self) -> str:
        """Return the lines of the file, ``sticky HEADER KEY``, ``match HEADER VALUE …`` and ``open``; empty without
        rules."""
        lines = [f"sticky {self.sticky} {self.key}"] if self.sticky else []
        lines += [f"match {self.match} {' '.join(self.values)}"] if self.match else []
        lines += ["open"] if self.is_open else []
        return "".join(line + "\n" for line in lines)

    def at(self, weight: int, *, is_open: bool) -> Sides:
        """Return what of these rules has an effect at this weight. At 100 there is one side, and what is sent to
        it counts, however it is marked: no header may hide a failure while the candidate bakes."""
        if not (0 < weight < 100 or is_open):
            return Sides()
        return replace(self, is_open=False) if weight else replace(self, sticky="", key="", is_open=True)


NO_SIDES = Sides()


def sides_of(model: MLModel, revision: str) -> Sides:
    """Return the rules of the spec for a candidate.

    The key is the same in each router and at each weight, so that a user moves at most once in a rollout. It differs by
    candidate, so that not always the same users come first, and no client can compute its side.
    """
    rollout = model.spec.rollout
    found = Sides()
    # The schema permits no other texts. A line break in one would be a line of the file.
    if rollout.sticky is not None and re.fullmatch(HEADER, rollout.sticky.header):
        key = hashlib.sha256(f"sticky:{model.owner.uid}:{revision}".encode()).hexdigest()
        found = replace(found, sticky=rollout.sticky.header, key=key)
    if rollout.match is not None and re.fullmatch(HEADER, rollout.match.header):
        values = tuple(value for value in rollout.match.values if re.fullmatch(HEADER_VALUE, value))
        found = replace(found, match=rollout.match.header, values=values) if values else found
    return found
