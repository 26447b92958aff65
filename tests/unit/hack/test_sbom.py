"""Bills of materials: what an image is built from, the same bytes from the same commit."""

from __future__ import annotations

import json

from hack import ROOT
from hack.lock import FOLDER, pins
from hack.sbom import IMAGES, document

LOCK = """# Written by `make lock`
a-package==1.0 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
only-windows==2.0 ; sys_platform == 'win32' \\
    --hash=sha256:{a}
only-new==2.0 ; python_full_version >= '3.12' \\
    --hash=sha256:{a}
only-linux==3.0 ; platform_machine == 'x86_64' and sys_platform == 'linux' \\
    --hash=sha256:{b}
""".format(a="a" * 64, b="b" * 64)
DOCKERFILE = "ARG BASE_IMAGE=python:3.11-slim-bookworm\nARG ROUTER_IMAGE=haproxy:3.2-bookworm\n"


def test_a_bill_has_the_packages_of_the_image_with_their_hashes_and_the_base() -> None:
    bill = document("server", "0.1.0", LOCK, DOCKERFILE)
    found = {part["name"]: part for part in bill["components"]}
    assert list(found) == ["python", "Python", "mlmodel", "a-package", "only-linux"]
    assert found["python"]["purl"] == "pkg:oci/python?repository_url=docker.io/library/python&tag=3.11-slim-bookworm"
    assert found["a-package"]["purl"] == "pkg:pypi/a-package@1.0"
    (files,) = found["a-package"]["externalReferences"]
    assert [digest["content"][0] for digest in files["hashes"]] == ["a", "b"]
    assert bill["dependencies"][0]["dependsOn"] == [part["bom-ref"] for part in bill["components"]]
    router = document("router", "0.1.0", "", DOCKERFILE)
    assert [part["purl"].partition("?")[0] for part in router["components"]] == [
        "pkg:oci/haproxy",
        "pkg:generic/haproxy@3.2",
    ]


def test_the_bill_depends_on_nothing_but_its_inputs() -> None:
    first = document("server", "0.1.0", LOCK, DOCKERFILE)
    assert first == document("server", "0.1.0", LOCK, DOCKERFILE)
    assert first["serialNumber"] != document("server", "0.1.1", LOCK, DOCKERFILE)["serialNumber"]


def test_every_image_has_a_bill_of_its_lock() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    for image, name in IMAGES.items():
        lock = (FOLDER / f"{name}.txt").read_text("utf-8") if name else ""
        bill = document(image, "0.1.0", lock, dockerfile)
        packages = {part["name"] for part in bill["components"] if part["bom-ref"].startswith("pkg:pypi/")}
        assert len(packages) >= len(pins(lock)) // 2
        assert packages <= pins(lock).keys()
        references = [part["bom-ref"] for part in bill["components"]]
        assert len(references) == len(set(references))
        json.dumps(bill)
