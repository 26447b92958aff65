"""The metrics as a page of text, in the format that its reader asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

OPENMETRICS = "application/openmetrics-text"

_END = "# EOF\n"


class Exposition:
    """Writes pages. How a series is written is asked of the library once; from then on only its value is put behind it,
    which takes a quarter of the time for pages of hundreds of series."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, str], str] = {}
        self._series: dict[tuple[str, ...], str] = {}

    def page(self, families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
        """The page and its content type; ``accept`` is the header of that name."""
        openmetrics = OPENMETRICS in accept
        encode, kind = choose_encoder(f"{OPENMETRICS};version=1.0.0" if openmetrics else "")
        parts = []
        for family in families:
            if (kind, family.name) not in self._heads:
                self._learn(encode, kind, family)
            parts.append(self._heads[kind, family.name])
            for sample in family.samples:
                key = (kind, sample.name, *sample.labels.values())
                if key not in self._series:
                    self._learn(encode, kind, family)
                parts.append(f"{self._series[key]} {floatToGoString(sample.value)}\n")  # type: ignore[no-untyped-call]
        if openmetrics:
            parts.append(_END)
        return "".join(parts).encode(), kind

    def _learn(self, encode: Callable[[Any], bytes], kind: str, family: Metric) -> None:
        """See how the library writes this family, with its samples in their order."""
        lines = encode(_Only(family)).decode().removesuffix(_END).split("\n")[:-1]
        self._heads[kind, family.name] = "".join(f"{line}\n" for line in lines if line.startswith("#"))
        series = (line.rpartition(" ")[0] for line in lines if not line.startswith("#"))
        for sample, written in zip(family.samples, series, strict=True):
            self._series[kind, sample.name, *sample.labels.values()] = written


class _Only:
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]
