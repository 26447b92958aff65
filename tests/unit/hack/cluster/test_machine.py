"""Reports of missing packages, paths, the commands for kind, and errors that contain what to type."""

import asyncio
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from hack.cluster import __main__ as command_line
from hack.cluster import cgroups, doctor, kind, paths, pki, relay, shell
from hack.cluster.report import ClusterError

COMPLETE = doctor.Machine(
    system="linux",
    root=True,
    go=(1, 26),
    has=lambda _: True,
    seccomp_headers=True,
    can_apt=True,
    cache_filesystem="ext4",
)


def test_nothing_is_missing_on_a_complete_machine() -> None:
    assert doctor.missing_report(COMPLETE) == []
    assert doctor.packages(COMPLETE) == []


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (replace(COMPLETE, system="darwin"), "needs Linux"),
        (replace(COMPLETE, root=False), "sudo"),
        (replace(COMPLETE, go=None), "Go is missing"),
        (replace(COMPLETE, go=(1, 19)), "Go 1.19 is too old"),
        (replace(COMPLETE, has=lambda program: program != "nft"), "apt-get install nftables"),
        (replace(COMPLETE, seccomp_headers=False), "libseccomp-dev"),
        (replace(COMPLETE, cache_filesystem="overlay"), "XDG_CACHE_HOME"),
    ],
)
def test_a_problem_is_reported_with_its_solution(machine: doctor.Machine, expected: str) -> None:
    (sentence,) = doctor.missing_report(machine)
    assert expected in sentence


def test_all_problems_are_reported_at_once_and_each_package_once() -> None:
    bare = replace(COMPLETE, go=None, has=lambda _: False, seccomp_headers=False)
    assert len(doctor.missing_report(bare)) == len(doctor.TOOLS) + 2
    packages = doctor.packages(bare)
    assert len(packages) == len(set(packages))
    assert {"buildah", "debootstrap", "golang-go", "libseccomp-dev"} <= set(packages)


def test_apt_cannot_solve_a_missing_root() -> None:
    assert doctor.unsolvable(replace(COMPLETE, root=False))
    assert not doctor.unsolvable(replace(COMPLETE, has=lambda _: False))


def test_the_innermost_mount_holds_a_path(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("o / overlay rw 0 0\nd /root ext4 rw 0 0\nt /root/.cache tmpfs rw 0 0\n")
    assert doctor.filesystem(Path("/root/x"), mounts) == "ext4"
    assert doctor.filesystem(Path("/rooted"), mounts) == "overlay"
    assert doctor.filesystem(Path("/root/.cache/a/b"), mounts) == "tmpfs"


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-a", "a" * 31, ".."])
def test_a_name_that_is_not_valid_in_a_path_is_rejected(name: str) -> None:
    with pytest.raises(ClusterError, match="is not a valid name of a cluster"):
        paths.run_dir(name)


def test_clusters_differ_by_name_and_by_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/one")
    first = (paths.run_dir("a"), paths.cgroup_name("a"))
    assert paths.run_dir("b") != first[0]
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert paths.run_dir("a") != first[0]
    assert paths.cgroup_name("a") != first[1]


def test_cgroups_of_both_versions_are_found(tmp_path: Path) -> None:
    for tree in ("cpu", "memory"):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "cgroup.procs").touch()
    (tmp_path / "other").mkdir()
    assert cgroups.roots("x", tmp_path) == [tmp_path / "cpu" / "x", tmp_path / "memory" / "x"]
    (tmp_path / "cgroup.controllers").touch()
    assert cgroups.roots("x", tmp_path) == [tmp_path / "x"]


def test_the_commands_for_kind_and_docker(tmp_path: Path) -> None:
    create = kind.create_command("demo", tmp_path / "kubeconfig")
    assert create[:5] == ["kind", "create", "cluster", "--name", "mlmodel-demo"]
    assert str(tmp_path / "kubeconfig") in create
    assert kind.build_command("server", "mlmodel-server:1")[:6] == [
        *("docker", "build", "--target", "server", "--tag", "mlmodel-server:1"),
    ]
    assert kind.load_command("demo", ["a:1", "b:1"])[-2:] == ["a:1", "b:1"]
    assert kind.exec_command("demo", ["curl", "x"]) == [
        *("docker", "exec", "-i", "mlmodel-demo-control-plane", "curl", "x"),
    ]


def test_a_command_without_its_cluster_reports_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kind, "available", lambda: False)
    assert command_line.main(["exec", "--name", "other", "--", "true"]) == 1
    error = capsys.readouterr().err
    assert "python -m hack.cluster up --name other" in error
    assert "Traceback" not in error


def test_a_timeout_shows_the_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("first\nthe reason\n")
    with pytest.raises(ClusterError, match=r"(?s)The thing: timed out after .*a\.log.*the reason"):
        shell.wait_for("The thing", lambda: False, seconds=0, log=log)


def test_a_program_that_fails_shows_its_output(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"(?s)Doing it failed.*exited with 3.*because"):
        shell.run(["sh", "-c", "echo because >&2; exit 3"], what="Doing it")
    with pytest.raises(ClusterError, match=r"(?s)Doing it failed. The end of .*log:.*because"):
        shell.run(["sh", "-c", "echo because; exit 3"], what="Doing it", log=tmp_path / "log")


def test_certificates_are_accepted_for_their_hosts_and_by_their_authority_only(tmp_path: Path) -> None:
    authority = pki.Authority.create(tmp_path, "ca")
    authority.issue("server", "server", hosts=["localhost", "127.0.0.1"])
    pki.Authority.create(tmp_path, "other")

    def handshake(trusted: str, host: str) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
        client = ssl.create_default_context(cafile=tmp_path / f"{trusted}.crt")
        client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = [
            client.wrap_bio(to_client, to_server, server_hostname=host),
            server.wrap_bio(to_server, to_client, server_side=True),
        ]
        for side in (*sides, *sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue

    handshake("ca", "127.0.0.1")
    handshake("ca", "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake("ca", "example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake("other", "localhost")


def test_the_relay_forwards_bytes_and_the_end_of_each_direction() -> None:
    async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As `kubectl exec -i … sort` does: it writes nothing before the end of the input.
        writer.write((await reader.read()).upper())
        writer.close()

    async def scenario() -> bytes:
        far = await asyncio.start_server(answer_after_the_end, "127.0.0.1", 0)
        near = socket.create_server(("127.0.0.1", 0))
        port = near.getsockname()[1]
        relaying = asyncio.create_task(relay.serve(near, "127.0.0.1", far.sockets[0].getsockname()[1]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x" * 300_000)
        writer.write_eof()
        received = await reader.read()
        writer.close()
        relaying.cancel()
        far.close()
        return received

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == b"X" * 300_000
