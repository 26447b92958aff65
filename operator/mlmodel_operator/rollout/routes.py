"""Which revision gets which weight: all that the routers get from a decision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlmodel_operator.api.status import Slot, Status
from mlmodel_operator.names import SERVER_PORT
from mlmodel_operator.rollout.observed import Observed


@dataclass(frozen=True)
class Routes:
    """The two slots of the router.

    ``addresses`` maps a slot to the ClusterIP of its revision's Service. ``stable`` and ``candidate`` are the slots of
    the two sides (None: the side has no slot); ``weight`` is the candidate's percentage, 0 to 100.
    """

    addresses: Mapping[Slot, str] = field(default_factory=dict)
    stable: Slot | None = None
    candidate: Slot | None = None
    weight: int = 0

    def text(self) -> str:
        """Return the routes file that the router reads: lines ``slot NAME ADDRESS PORT``, ``stable NAME``,
        ``candidate NAME WEIGHT`` and, first, ``id HASH``, which the router reports once it follows the file."""
        lines = [f"slot {slot} {self.addresses[slot]} {SERVER_PORT}" for slot in sorted(self.addresses)]
        if self.stable is not None:
            lines.append(f"stable {self.stable}")
        if self.candidate is not None:
            lines.append(f"candidate {self.candidate} {self.weight}")
        body = "".join(line + "\n" for line in lines)
        return f"id {hashlib.sha256(body.encode()).hexdigest()[:16]}\n{body}"

    def id(self) -> str:
        """Return the identity of these routes, as the router reports it."""
        return self.text().split("\n", 1)[0].removeprefix("id ")


def read_routes(text: str) -> Routes:
    """Return the routes in a routes file. A line that is not valid is left out: tenants may edit the ConfigMap."""
    addresses: dict[Slot, str] = {}
    stable: Slot | None = None
    candidate: Slot | None = None
    weight = 0
    for line in text.splitlines():
        match line.split(" "):
            case ["slot", ("a" | "b") as slot, address, _]:
                addresses[slot] = address
            case ["stable", ("a" | "b") as slot]:
                stable = slot
            case ["candidate", ("a" | "b") as slot, share] if share.isascii() and share.isdigit():
                candidate, weight = slot, min(int(share[:3]), 100)
    return Routes(addresses, stable, candidate, weight)


def routes_for(status: Status, observed: Observed) -> Routes | None:
    """Return the routes that ``status`` requires; None to leave them as they are: an address is unknown, or the status
    names nothing that serves while the routers follow routes to a stable."""
    stable, candidate = status.stable, status.candidate
    slots: dict[Slot, str] = {}
    stable_slot: Slot | None = None
    candidate_slot: Slot | None = None
    weight = 0
    if stable is not None:
        stable_slot = stable.slot
        slots[stable.slot] = observed.revision(stable.revision).address
    if candidate is not None and candidate.slot is not None:
        state = observed.revision(candidate.revision)
        slots[candidate.slot] = state.address
        if stable is None:
            stable_slot = candidate.slot
        else:
            candidate_slot = candidate.slot
            # No weight without a ready pod: stable answers until the candidate has one.
            weight = candidate.weight if state.ready else 0
    if not all(slots.values()):
        return None
    if stable_slot is None and observed.followed is not None and observed.followed.stable is not None:
        return None
    return Routes(slots, stable_slot, candidate_slot, weight)


def are_confirmed(routes: Routes | None, observed: Observed) -> bool:
    """Whether there are routes and ready routers, and every ready router follows these routes."""
    return (
        routes is not None
        and bool(observed.routers)
        and all(router.routes == routes.id() for router in observed.routers)
    )
