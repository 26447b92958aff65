"""Clustering."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import check_lengths
from mlmodel_server.registry.entry import of


def check_centres(model: Any) -> None:
    """Check that the centres are as wide as a row."""
    if hasattr(model, "cluster_centers_"):
        check_lengths(model.n_features_in_, np.asarray(model.cluster_centers_).T)


ENTRIES = (
    *of("sklearn.cluster._affinity_propagation", "AffinityPropagation"),
    *of("sklearn.cluster._agglomerative", "AgglomerativeClustering FeatureAgglomeration"),
    *of("sklearn.cluster._bicluster", "SpectralBiclustering SpectralCoclustering"),
    *of("sklearn.cluster._birch", "Birch _CFNode _CFSubcluster"),
    *of("sklearn.cluster._bisect_k_means", "BisectingKMeans _BisectingTree"),
    *of("sklearn.cluster._dbscan", "DBSCAN"),
    *of("sklearn.cluster._hdbscan.hdbscan", "HDBSCAN"),
    *of("sklearn.cluster._kmeans", "KMeans MiniBatchKMeans", check_centres),
    *of("sklearn.cluster._mean_shift", "MeanShift"),
    *of("sklearn.cluster._optics", "OPTICS"),
    *of("sklearn.cluster._spectral", "SpectralClustering"),
)
