"""From the pods' cumulative counts of labels to blocks of evidence.

Labels of either version may be posted to any pod of the model: to stable's while the router draws, and to the
candidate's when it gets all requests. So the pages of both sides are read, and each has counts of both.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace

from mlmodel_operator.api.evidence import LabelPage, Labels, LabelSides, QualityState
from mlmodel_operator.api.types import QualityGate
from mlmodel_operator.rollout.evidence import quality
from mlmodel_operator.rollout.observed import Observed

BINS_PER_DECADE, LARGEST_DECADE = 40, 9
"""Of the errors of numbers, as the server counts them (server/mlmodel_server/observe/rollout.py)."""

_KINDS = {"accuracy": "classes", "within": "numbers"}
"""What the model predicts for each metric."""


def bin_for(gate: QualityGate) -> int:
    """Return the largest bin of errors that are right; classes have no errors, and any bin fits."""
    if not gate.within or gate.within <= 0.0:
        return 0
    place = math.ceil(BINS_PER_DECADE * (math.log10(gate.within) + LARGEST_DECADE) - 1e-9)
    return min(max(place, 0), 2 * LARGEST_DECADE * BINS_PER_DECADE - 1)


def hash_of(revision: str) -> int:
    """Return the hash by which a page names a revision (as the server does)."""
    return zlib.crc32(revision.encode())


def tag_of(candidate: str) -> int:
    """Return the number by which ids and pages name the candidate of a rollout (as the server does)."""
    return hash_of(candidate) % 512


def sides_of(
    weights: Mapping[str, tuple[Labels, Labels]], *, is_candidate: bool, has_other: bool
) -> dict[str, LabelSides]:
    """Return the counts of a page, the own ones and those of the other revision by weight, as sides."""
    sides = {}
    for weight, (own, other) in weights.items():
        other = other if has_other else Labels()
        sides[weight] = LabelSides(own, other) if is_candidate else LabelSides(other, own)
    return sides


def first(observed: Observed) -> QualityState:
    """Return the state of a candidate before its first request: what the pages show already does not count."""
    pages = {found.pod: LabelPage(found.boot, found.weights) for found in observed.labelled if found.boot}
    return QualityState(pages=pages, bin=max((found.bin for found in observed.labelled), default=0))


def count(state: QualityState, observed: Observed, gate: QualityGate) -> QualityState:
    """Return the state after one more reading of all pages.

    The counts are cumulative, and the state has the last ones read. A pod that is not ready, or not read this time,
    keeps its page: if it comes back, its labels must not count twice. If the spec has another tolerance now, all labels
    count again, by that one.
    """
    if bin_for(gate) != state.bin:
        state = QualityState(bin=bin_for(gate))
    pages, blocks, kind = dict(state.pages), dict[str, LabelSides](), state.kind
    for found in observed.labelled:
        if not found.boot or found.bin != state.bin:
            continue
        before = pages.get(found.pod, LabelPage())
        former = before.weights if before.boot == found.boot else {}
        for weight, sides in found.weights.items():
            block = _since(sides, former.get(weight, LabelSides()))
            blocks[weight] = blocks.get(weight, LabelSides()) + block
        pages[found.pod] = LabelPage(found.boot, found.weights)
        kind = found.kind or kind
    present = {pod.name for known in observed.revisions.values() for pod in known.pods}
    pages = {name: page for name, page in pages.items() if name in present}
    new = {weight: sides for weight, sides in blocks.items() if sides != LabelSides()}
    state = replace(state, pages=pages, kind=kind)
    return state if why_not(gate, kind) else quality.add(state, new, max_drop=gate.max_drop)


def _since(now: LabelSides, before: LabelSides) -> LabelSides:
    return LabelSides(_more(now.candidate, before.candidate), _more(now.stable, before.stable))


def _more(now: Labels, before: Labels) -> Labels:
    """Return the labels since ``before``; none if a page shows fewer, which no honest one does."""
    number, right = now.number - before.number, now.right - before.right
    return Labels(number, right) if 0 <= right <= number else Labels()


def why_not(gate: QualityGate, kind: str) -> str:
    """Return why labels cannot be judged by this gate, as a clause for messages; empty if they can."""
    wanted = _KINDS.get(gate.metric)
    if wanted is None:
        return "spec.rollout.gates.quality.metric is unknown: type accuracy or within"
    if not kind or kind == wanted:
        return ""
    if kind == "numbers":
        return "the model predicts numbers: type `quality: {metric: within, within: 0.5}` with the largest right error"
    return "the model predicts classes: type `quality: {metric: accuracy}`"
