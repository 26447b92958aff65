"""Clustering."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import check_indices, dense, only, whole_number

_MAX_THREADS = 1024


def check_centres(model: Any) -> None:
    """Check that the centres are as wide as a row, and the number of threads."""
    known = vars(model)
    if "cluster_centers_" in known:
        dense(known["cluster_centers_"], None, known["n_features_in_"])
        whole_number(known["_n_threads"], 1, _MAX_THREADS)
        if not len(known["cluster_centers_"]):
            raise Damaged("it has no cluster")


def check_bisecting(model: Any) -> None:
    """Check the tree of centres too."""
    check_centres(model)
    known = vars(model)
    if "_bisecting_tree" not in known:
        return
    stack, seen = [known["_bisecting_tree"]], set()
    while stack:
        node = only(stack.pop(), "sklearn.cluster._bisect_k_means._BisectingTree")
        if id(node) in seen:
            raise Damaged("it has a tree whose branches merge or loop")
        seen.add(id(node))
        dense(np.ravel(node.center), known["n_features_in_"])
        if node.left is not None:
            stack += [node.left, node.right]
    if "_X_mean" in known:
        dense(known["_X_mean"], known["n_features_in_"])


def check_birch(model: Any) -> None:
    """Check that each centre has its norm and its label."""
    known = vars(model)
    if "subcluster_centers_" in known:
        centres = dense(known["subcluster_centers_"], None, known["n_features_in_"])
        dense(known["_subcluster_norms"], len(centres))
        dense(known["subcluster_labels_"], len(centres), kinds="iu")


def check_agglomeration(model: Any) -> None:
    """Check that each column has a cluster: the number of clusters follows from the highest."""
    known = vars(model)
    if "labels_" in known:
        labels = dense(known["labels_"], known["n_features_in_"], kinds="iu")
        check_indices(labels, len(labels))


ENTRIES = (
    *of("sklearn.cluster._affinity_propagation", "AffinityPropagation"),
    *of("sklearn.cluster._agglomerative", "AgglomerativeClustering"),
    *of("sklearn.cluster._agglomerative", "FeatureAgglomeration", check_agglomeration),
    *of("sklearn.cluster._bicluster", "SpectralBiclustering SpectralCoclustering"),
    *of("sklearn.cluster._birch", "Birch", check_birch),
    *of("sklearn.cluster._birch", "_CFNode _CFSubcluster"),
    *of("sklearn.cluster._bisect_k_means", "BisectingKMeans", check_bisecting),
    *of("sklearn.cluster._bisect_k_means", "_BisectingTree"),
    *of("sklearn.cluster._dbscan", "DBSCAN"),
    *of("sklearn.cluster._hdbscan.hdbscan", "HDBSCAN"),
    *of("sklearn.cluster._kmeans", "KMeans MiniBatchKMeans", check_centres),
    *of("sklearn.cluster._mean_shift", "MeanShift"),
    *of("sklearn.cluster._optics", "OPTICS"),
    *of("sklearn.cluster._spectral", "SpectralClustering"),
)
