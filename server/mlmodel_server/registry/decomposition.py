"""Decompositions, manifolds, random projections and approximate kernels."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("sklearn.decomposition._dict_learning", "DictionaryLearning MiniBatchDictionaryLearning SparseCoder"),
    *of("sklearn.decomposition._factor_analysis", "FactorAnalysis"),
    *of("sklearn.decomposition._fastica", "FastICA"),
    *of("sklearn.decomposition._incremental_pca", "IncrementalPCA"),
    *of("sklearn.decomposition._kernel_pca", "KernelPCA"),
    *of("sklearn.decomposition._lda", "LatentDirichletAllocation"),
    *of("sklearn.decomposition._nmf", "MiniBatchNMF NMF"),
    *of("sklearn.decomposition._pca", "PCA"),
    *of("sklearn.decomposition._sparse_pca", "MiniBatchSparsePCA SparsePCA"),
    *of("sklearn.decomposition._truncated_svd", "TruncatedSVD"),
    *of(
        "sklearn.kernel_approximation",
        "AdditiveChi2Sampler Nystroem PolynomialCountSketch RBFSampler SkewedChi2Sampler",
    ),
    *of("sklearn.manifold._classical_mds", "ClassicalMDS"),
    *of("sklearn.manifold._isomap", "Isomap"),
    *of("sklearn.manifold._locally_linear", "LocallyLinearEmbedding"),
    *of("sklearn.manifold._mds", "MDS"),
    *of("sklearn.manifold._spectral_embedding", "SpectralEmbedding"),
    *of("sklearn.manifold._t_sne", "TSNE"),
    *of("sklearn.random_projection", "GaussianRandomProjection SparseRandomProjection"),
)
