"""A throwaway Kubernetes for demo and tests: kind with Docker, else an embedded cluster in its own namespaces."""

from hack.cluster.cluster import Cluster, open_cluster, start
from hack.cluster.report import ClusterError

__all__ = ["Cluster", "ClusterError", "open_cluster", "start"]
