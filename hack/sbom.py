"""Bills of materials of the images, as CycloneDX 1.6 JSON: ``python -m hack.sbom`` writes ``out/sbom/IMAGE.cdx.json``.

They list what the images are built from: the packages of the lock, with the hashes of their files, and the base image.
The same commit always gives the same bytes. A tool such as cyclonedx-py needs 20 packages for this, and does not read
the Dockerfile.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from hack import ROOT
from hack.lock import FOLDER, Pin, entries

OUT = ROOT / "out" / "sbom"
IMAGES: Mapping[str, str] = {
    "operator": "operator",
    "server": "server",
    "server-pytorch": "server-pytorch",
    "server-tensorflow": "server-tensorflow",
    "router": "",
}
"""The lock file of each image; the router has no packages of Python."""

MACHINE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""The machine in the images, for the markers of a lock."""

_ARGUMENT = re.compile(r"^ARG (BASE|ROUTER)_IMAGE=([a-z0-9./-]+):([A-Za-z0-9._-]+)$", re.MULTILINE)
_PARTS = {"BASE": ("Python", "python"), "ROUTER": ("HAProxy", "haproxy")}

Json = dict[str, Any]


def document(image: str, version: str, lock: str, dockerfile: str) -> Json:
    """Return the bill of one image; ``lock`` is empty for the router."""
    subject = {"type": "container", "bom-ref": f"mlmodel-{image}", "name": f"mlmodel-{image}", "version": version}
    project = {
        "type": "application",
        "bom-ref": "mlmodel",
        "name": "mlmodel",
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    components = _base("BASE" if lock else "ROUTER", dockerfile)
    components += [project, *(_package(pin) for pin in entries(lock) if _is_installed(pin))] if lock else []
    references = [component["bom-ref"] for component in components]
    bill: Json = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [{"ref": subject["bom-ref"], "dependsOn": references}],
        # The packages of the operating system are those of the base image, which has its own bill.
        "compositions": [{"aggregate": "incomplete", "assemblies": [subject["bom-ref"]]}],
    }
    identity = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))
    return {**bill, "serialNumber": f"urn:uuid:{identity}"}


def _base(which: str, dockerfile: str) -> list[Json]:
    """Return the base image of the Dockerfile and the program in it."""
    found = {match[1]: (match[2], match[3]) for match in _ARGUMENT.finditer(dockerfile)}
    name, tag = found[which]
    label, program = _PARTS[which]
    image = f"pkg:oci/{name}?repository_url=docker.io/library/{name}&tag={tag}"
    pinned = [{"name": "mlmodel:pinned-by", "value": "tag"}]
    release = tag.partition("-")[0]
    return [
        {"type": "container", "bom-ref": image, "name": name, "version": tag, "purl": image, "properties": pinned},
        {
            "type": "application",
            "bom-ref": f"{program}@{release}",
            "name": label,
            "version": release,
            "purl": f"pkg:generic/{program}@{release}",
            "properties": pinned,
        },
    ]


def _is_installed(pin: Pin) -> bool:
    return not pin.marker or Marker(pin.marker).evaluate(MACHINE)


def _package(pin: Pin) -> Json:
    purl = f"pkg:pypi/{pin.name}@{pin.version}"
    hashes = [{"alg": "SHA-256", "content": digest} for digest in pin.hashes]
    files = {"type": "distribution", "url": f"https://pypi.org/project/{pin.name}/{pin.version}/", "hashes": hashes}
    return {
        "type": "library",
        "bom-ref": purl,
        "name": pin.name,
        "version": pin.version,
        "purl": purl,
        "externalReferences": [files],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the bill of each image."""
    parser = argparse.ArgumentParser(prog="python -m hack.sbom", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="folder to write to (default: out/sbom)")
    out: Path = parser.parse_args(argv).out.absolute()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for image, lock in IMAGES.items():
        text = (FOLDER / f"{lock}.txt").read_text("utf-8") if lock else ""
        bill = document(image, version, text, dockerfile)
        path = out / f"{image}.cdx.json"
        path.write_text(json.dumps(bill, indent=1) + "\n", "utf-8")
        print(f"{path}: {len(bill['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
