"""Known vulnerabilities of the locked packages: ``python -m hack.audit``.

It asks the package index (``https://pypi.org/pypi/NAME/VERSION/json``), or reads the export of the OSV database from a
file, where there is no network: ``--osv all.zip``, from https://osv-vulnerabilities.storage.googleapis.com/PyPI/.

Exit codes: 0 no vulnerability is known; 1 some are; 3 nothing was audited, because no source answered. Before it
reports that a package has none, it looks up one that has: an index may answer without this part. pip-audit skips what
it cannot look up and then exits with 0, and needs 25 packages.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from hack.lock import FOLDER, LOCKS, Pin, entries

INDEX = "https://pypi.org/pypi"
KNOWN = Pin("jinja2", "2.4.1")
"""A version with published vulnerabilities: a source that lists none of them knows none of others either."""

ACCEPTED: Mapping[str, str] = {}
"""Vulnerabilities that do not apply here, by id or alias, with the reason. Remove one when its package is newer."""

NOT_AUDITED = 3
SECONDS = 30

Found = list[tuple[str, frozenset[str], str]]
"""Of one package: id, all its names, and the versions that fix it."""

Source = Callable[[Pin], Found]


class NoAnswer(Exception):
    """The source has no data; the text is the reason."""


def ask_index(pin: Pin, index: str = INDEX) -> Found:
    """Return the vulnerabilities that the package index lists for a version."""
    try:
        with urllib.request.urlopen(f"{index}/{pin.name}/{pin.version}/json", timeout=SECONDS) as response:
            listed = json.load(response)["vulnerabilities"]
        return [
            (one["id"], frozenset([one["id"], *one["aliases"]]), ", ".join(one["fixed_in"]))
            for one in listed
            if not one.get("withdrawn")
        ]
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"the package index answered {error.code} for {pin.name} {pin.version}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoAnswer(f"the package index did not answer ({type(error).__name__})") from None


def read_osv(path: Path) -> Source:
    """Return a source that looks into an export of OSV: a zip with one JSON file per vulnerability."""
    by_package: dict[str, list[Mapping[str, Any]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                entry = json.loads(archive.read(name))
                if entry.get("withdrawn"):
                    continue
                for part in entry.get("affected", []):
                    if part.get("package", {}).get("ecosystem") == "PyPI":
                        package = canonicalize_name(part["package"]["name"])
                        by_package.setdefault(package, []).append({**part, "entry": entry})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise NoAnswer(f"{path.name} is not an export of OSV ({type(error).__name__})") from None

    def look(pin: Pin) -> Found:
        return [
            (part["entry"]["id"], frozenset([part["entry"]["id"], *part["entry"].get("aliases", [])]), _fixes(part))
            for part in by_package.get(pin.name, [])
            if affects(part, pin.version)
        ]

    return look


def affects(part: Mapping[str, Any], version: str) -> bool:
    """Whether an ``affected`` part of OSV has the version: in its list, or in a range of its events."""
    return version in part.get("versions", []) or any(
        _is_within(each.get("events", []), Version(version))
        for each in part.get("ranges", [])
        if each.get("type") == "ECOSYSTEM"
    )


def _is_within(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    """Return whether the version is affected, as https://ossf.github.io/osv-schema/#evaluation defines."""
    is_affected = False
    for kind, text in sorted(((*event.items(),)[0] for event in events), key=lambda one: (_version(one[1]), one[0])):
        bound = _version(text)
        if kind == "introduced" and version >= bound:
            is_affected = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            is_affected = False
    return is_affected


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def _fixes(part: Mapping[str, Any]) -> str:
    events = [event for each in part.get("ranges", []) for event in each.get("events", [])]
    return ", ".join(sorted({event["fixed"] for event in events if "fixed" in event}))


def audit(source: Source, pins: Sequence[Pin]) -> list[str]:
    """Return one line for each vulnerability that is not accepted. Raise :class:`NoAnswer` if a package was not looked
    up."""
    if not source(KNOWN):
        raise NoAnswer(f"the source lists no vulnerability of {KNOWN.name} {KNOWN.version}, which has some")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(source, pins))
    return [
        f"{pin.name} {pin.version}: {identity}, fixed in {fixes or 'no version'}"
        for pin, listed in zip(pins, found, strict=True)
        for identity, names, fixes in listed
        if not names & ACCEPTED.keys()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the vulnerabilities; see the module for the exit codes."""
    parser = argparse.ArgumentParser(prog="python -m hack.audit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--osv", type=Path, metavar="ZIP", help="export of OSV to read instead of the package index")
    given = parser.parse_args(argv)
    locked = {
        (pin.name, pin.version): pin for name in LOCKS for pin in entries((FOLDER / f"{name}.txt").read_text("utf-8"))
    }
    pins = [locked[key] for key in sorted(locked)]
    try:
        lines = audit(read_osv(given.osv) if given.osv else ask_index, pins)
    except NoAnswer as problem:
        print(f"NOT AUDITED: {problem}. Give an export of OSV with --osv.", file=sys.stderr)
        return NOT_AUDITED
    print("\n".join(lines) or f"{len(pins)} packages, no known vulnerability")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
