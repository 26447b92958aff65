"""The command line: `python -m hack.cluster up|down|images|exec|relay|status|build|prepare`."""

import argparse
import os
import sys
from collections.abc import Sequence

from hack import ROOT
from hack.cluster import binaries, doctor, images, kind, lifecycle, paths, store
from hack.cluster.cluster import Cluster, Embedded, open_cluster, start
from hack.cluster.report import ClusterError, progress


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m hack.cluster", description="Start and control a throwaway Kubernetes cluster."
    )
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in {
        "up": "start a cluster, or load changed images into the running one",
        "down": "stop a cluster and remove everything of it except the caches",
        "images": "build the project's images, and load changed ones into the cluster if it is running",
        "status": "list the nodes and pods of a cluster",
        "exec": "run a command in the network of a cluster: -- COMMAND",
        "relay": "forward a port of 127.0.0.1 on the host to a Service, until Ctrl-C",
        "build": "build the programs of Kubernetes, and start nothing",
        "prepare": "install the packages that this machine lacks (Debian and Ubuntu, as root)",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in ("up", "down", "images", "status", "exec", "relay"):
            command.add_argument("--name", default=paths.DEFAULT, help="name of the cluster (default: %(default)s)")
        if name == "exec":
            command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
        if name == "relay":
            command.add_argument(
                "target", metavar="SERVICE[.NAMESPACE]:PORT", help="Service and port, for example fraud.default:80"
            )
            command.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free port)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the command line; return the exit code."""
    options = parser().parse_args(arguments)
    try:
        {
            "up": _up,
            "down": _down,
            "images": _images,
            "status": _status,
            "exec": _exec,
            "relay": _relay,
            "build": _build,
            "prepare": _prepare,
        }[options.command](options)
    except ClusterError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _up(options: argparse.Namespace) -> None:
    cluster = open_cluster(options.name)
    if cluster is None:
        cluster = start(options.name, attached=False)
    else:
        progress(f"Cluster '{cluster.name}' is running; building and loading changed images")
        progress(f"  {cluster.load_images()} images loaded")
    _describe(cluster)


def _describe(cluster: Cluster) -> None:
    folder = os.path.relpath(cluster.kubeconfig.parent)
    kubectl = f"{folder}/bin/kubectl" if isinstance(cluster.backend, Embedded) else "kubectl"
    print(f"Cluster '{cluster.name}' is ready:  {kubectl} --kubeconfig {folder}/kubeconfig get nodes")


def _running(name: str) -> Cluster:
    cluster = open_cluster(paths.check_name(name))
    if cluster is None:
        flag = "" if name == paths.DEFAULT else f" --name {name}"
        raise ClusterError(f"Cluster '{name}' is not running. Start it with: python -m hack.cluster up{flag}")
    return cluster


def _down(options: argparse.Namespace) -> None:
    cluster = open_cluster(paths.check_name(options.name))
    if cluster is not None:
        cluster.down()
    else:
        Embedded.remove(options.name)
    progress(f"Cluster '{options.name}' " + ("has been removed" if cluster else "is not running"))


def _images(options: argparse.Namespace) -> None:
    cluster = open_cluster(paths.check_name(options.name))
    if cluster is not None:
        progress(f"{cluster.load_images()} images loaded into cluster '{cluster.name}'")
    elif kind.available():
        kind.build_images()
    else:
        doctor.require()
        progress(f"{store.fill(images.build(), binaries.build())} images changed")


def _status(options: argparse.Namespace) -> None:
    cluster = _running(options.name)
    _describe(cluster)
    print(cluster.kubectl("get", "nodes,pods", "--all-namespaces", "-o", "wide"), end="")


def _exec(options: argparse.Namespace) -> None:
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise ClusterError("The command is missing. Type: python -m hack.cluster exec -- COMMAND")
    command = _running(options.name).exec_args(argv)
    os.execvp(command[0], command)


def _relay(options: argparse.Namespace) -> None:
    cluster = _running(options.name)
    service, _, port = options.target.rpartition(":")
    if not service or not port.isdecimal():
        raise ClusterError(
            f"'{options.target}' does not have the form SERVICE[.NAMESPACE]:PORT. Type for example: fraud.default:80"
        )
    name, _, namespace = service.partition(".")
    if not isinstance(cluster.backend, Embedded):
        raise ClusterError(
            "`relay` does not work on kind. Type: "
            f"kubectl port-forward -n {namespace or 'default'} service/{name} :{port}"
        )
    address = cluster.kubectl("get", "service", name, "-n", namespace or "default", "-o", "jsonpath={.spec.clusterIP}")
    with lifecycle.listen(options.port) as listener:
        print(
            f"Forwarding http://127.0.0.1:{listener.getsockname()[1]} to {options.target}; Ctrl-C stops it", flush=True
        )
        listener.set_inheritable(True)
        words = [sys.executable, "-m", "hack.cluster.relay", str(listener.fileno()), address, port]
        command = cluster.exec_args(words)
        os.chdir(ROOT)
        os.execvp(command[0], command)


def _build(_: argparse.Namespace) -> None:
    doctor.require()
    print(binaries.build())


def _prepare(_: argparse.Namespace) -> None:
    doctor.install(doctor.packages(doctor.inspect()))


if __name__ == "__main__":
    sys.exit(main())
