"""Which revision gets which weight: all that the routers get from a decision."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlmodel_operator.api.status import Candidate, Slot, Status
from mlmodel_operator.names import SERVER_PORT
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.sides import NO_SIDES, Sides

_LONGEST = 2_000
"""Number of characters from which on a routes file is not ours."""
_LABEL = re.compile(r"[A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Routes:
    """The two slots of the router.

    ``addresses`` maps a slot to the ClusterIP of its revision's Service, ``labels`` to its version. ``stable`` and
    ``candidate`` are the slots of the two sides (None: the side has no slot). Of the candidate, ``weight`` is its
    percentage (0 to 100), ``revision`` its identity, which the routers report with their counts, and ``limit_ms`` the
    time in milliseconds for its own answer, before the request is retried on stable. A client that gives up after
    ``patience_ms`` is a failure of the revision, and one that gives up sooner is not. ``sides`` are in a file of their
    own.
    """

    addresses: Mapping[Slot, str] = field(default_factory=dict)
    stable: Slot | None = None
    candidate: Slot | None = None
    weight: int = 0
    revision: str = ""
    limit_ms: int = 10_000
    patience_ms: int = 10_000
    labels: Mapping[Slot, str] = field(default_factory=dict)
    sides: Sides = NO_SIDES

    def text(self) -> str:
        """Return the routes file that the router reads: lines ``slot NAME ADDRESS PORT VERSION``,
        ``stable NAME``, ``candidate NAME WEIGHT REVISION LIMIT PATIENCE`` and, first, ``id HASH`` of both files, which
        the router reports once it follows them."""
        lines = [
            f"slot {slot} {self.addresses[slot]} {SERVER_PORT} {self.labels.get(slot, '')}".rstrip()
            for slot in sorted(self.addresses)
        ]
        if self.stable is not None:
            lines.append(f"stable {self.stable}")
        if self.candidate is not None:
            times = f"{self.limit_ms} {self.patience_ms}"
            lines.append(f"candidate {self.candidate} {self.weight} {self.revision} {times}")
        body = "".join(line + "\n" for line in lines)
        return f"id {hashlib.sha256((body + self.sides.text()).encode()).hexdigest()[:16]}\n{body}"

    def sides_text(self) -> str:
        """Return the file ``sides`` of these routes, which begins with their identity: the router ignores one of other
        routes. Empty without rules."""
        text = self.sides.text()
        return f"id {self.id()}\n{text}" if text else ""

    def id(self) -> str:
        """Return the identity of these routes, as the router reports it."""
        return self.text().split("\n", 1)[0].removeprefix("id ")


def read_routes(text: str) -> Routes:
    """Return the routes in a routes file. A line that is not valid is left out: tenants may edit the ConfigMap."""
    routes = Routes()
    for line in text[:_LONGEST].splitlines():
        match line.split(" "):
            case ["slot", ("a" | "b") as slot, address, _, *label]:
                labels = {slot: " ".join(label)} if label else {}
                routes = replace(
                    routes, addresses={**routes.addresses, slot: address}, labels={**routes.labels, **labels}
                )
            case ["stable", ("a" | "b") as slot]:
                routes = replace(routes, stable=slot)
            case ["candidate", ("a" | "b") as slot, share, revision, *times] if _is_number(share) and len(times) == 2:
                if all(_is_number(time) for time in times):
                    weight, (limit, patience) = min(int(share[:3]), 100), (int(time[:9]) for time in times)
                    routes = replace(routes, candidate=slot, weight=weight, revision=revision)
                    routes = replace(routes, limit_ms=limit, patience_ms=patience)
            case ["candidate", ("a" | "b") as slot, share] if _is_number(share):
                # Of the release before.
                routes = replace(routes, candidate=slot, weight=min(int(share[:3]), 100))
    return routes


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def routes_for(status: Status, observed: Observed, sides: Sides = NO_SIDES) -> Routes | None:
    """Return the routes that ``status`` requires, with those of ``sides`` that have an effect; None to leave them as
    they are: an address is unknown, or the status names nothing that serves while the routers follow routes to a
    stable."""
    stable, candidate = status.stable, status.candidate
    slots: dict[Slot, str] = {}
    labels: dict[Slot, str] = {}
    stable_slot: Slot | None = None
    candidate_slot: Slot | None = None
    weight, is_open = 0, False
    if stable is not None:
        stable_slot = stable.slot
        slots[stable.slot], labels[stable.slot] = observed.revision(stable.revision).address, _label(stable.version)
    if candidate is not None and candidate.slot is not None:
        state = observed.revision(candidate.revision)
        slots[candidate.slot], labels[candidate.slot] = state.address, _label(candidate.version)
        if stable is None:
            stable_slot = candidate.slot
        else:
            candidate_slot = candidate.slot
            # No weight without a ready pod: stable answers until the candidate has one.
            weight = weight_of(candidate) if state.ready else 0
            is_open = is_dark(candidate) and state.ready > 0
    if not all(slots.values()):
        return None
    if stable_slot is None and observed.followed is not None and observed.followed.stable is not None:
        return None
    if candidate is None or candidate_slot is None:
        return Routes(slots, stable_slot, labels=labels)
    limit_ms = candidate.attempt_limit_ms or Routes.limit_ms
    patience_ms = _patience_ms(candidate, limit_ms)
    sides = sides.at(weight, is_open=is_open)
    return Routes(slots, stable_slot, candidate_slot, weight, candidate.revision, limit_ms, patience_ms, labels, sides)


def _label(version: str) -> str:
    """Return a version for the routes file; empty if it has characters that no version in a spec has."""
    return version if _LABEL.fullmatch(version) else ""


def _patience_ms(candidate: Candidate, limit_ms: int) -> int:
    """Return the time in milliseconds after which a client that gives up shows that a revision is too slow: far longer
    than stable normally takes. Without knowing that, only the limit itself shows it."""
    return min(slow_ms(candidate.stable_ms), limit_ms) if candidate.stable_ms else limit_ms


def slow_ms(normal_ms: int) -> int:
    """Return the time in milliseconds from which on an answer is slow, if stable took ``normal_ms`` on average when the
    canary began."""
    return 3 * normal_ms + 100


def weight_of(candidate: Candidate) -> int:
    """Return the percentage of the requests for the candidate: that of its step, or all while it stands in."""
    return candidate.weight if candidate.stands_in_since is None else 100


def is_dark(candidate: Candidate) -> bool:
    """Whether the candidate is in a step of weight 0: it gets only requests that choose it."""
    return candidate.phase == "Canary" and weight_of(candidate) == 0


def follows(reported: str, routes: Routes) -> bool:
    """Whether a router that reports this identity has ``routes``. It may wait for requests in flight before it uses the
    slot of the candidate."""
    return reported.removeprefix("waiting-") == routes.id()


def are_confirmed(routes: Routes | None, observed: Observed, confirmed: str) -> bool:
    """Whether there are routes and ready routers, and every ready router follows these routes.

    ``confirmed`` is the identity of the routes that all routers had confirmed before. A router that could not be read
    this time still follows them.
    """
    if routes is None or not observed.routers:
        return False
    return all((router.routes or confirmed) == routes.id() for router in observed.routers)
