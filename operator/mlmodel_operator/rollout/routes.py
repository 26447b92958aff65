"""Which revision gets which share of the requests: the whole interface between the decision and the router."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..api.status import Slot

SERVER_PORT = 8080


def other(slot: Slot) -> Slot:
    """The slot that ``slot`` is not."""
    return "b" if slot == "a" else "a"


@dataclass(frozen=True)
class Routes:
    """The two slots of the router.

    ``addresses`` maps a slot to the ClusterIP of its revision's Service. ``stable`` and ``candidate`` say which slot
    has which role (None: nobody); ``weight`` is the candidate's share in percent, 0 to 100. While there is a candidate,
    what it fails to answer is asked of stable.
    """

    addresses: Mapping[Slot, str] = field(default_factory=dict)
    stable: Slot | None = None
    candidate: Slot | None = None
    weight: int = 0

    def text(self) -> str:
        """The routes file that the router reads: lines ``slot NAME ADDRESS PORT``, ``stable NAME``,
        ``candidate NAME WEIGHT`` and, first, ``id HASH``, which the router echoes when it has applied the file."""
        lines = [f"slot {slot} {self.addresses[slot]} {SERVER_PORT}" for slot in sorted(self.addresses)]
        if self.stable is not None:
            lines.append(f"stable {self.stable}")
        if self.candidate is not None:
            lines.append(f"candidate {self.candidate} {self.weight}")
        body = "".join(line + "\n" for line in lines)
        return f"id {hashlib.sha256(body.encode()).hexdigest()[:16]}\n{body}"

    def id(self) -> str:
        """The identity of this routing, as the router echoes it."""
        return self.text().split("\n", 1)[0].removeprefix("id ")
