"""Plain data that scikit-learn and joblib put into a file."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("joblib.numpy_pickle", "NumpyArrayWrapper"),
    *of("numpy", "dtype ndarray"),
    *of("numpy.ma", "MaskedArray"),
    *of("numpy.ma.core", "MaskedArray"),
    *of("sklearn.utils._bunch", "Bunch"),
    *of("sklearn.utils._metadata_requests", "MetadataRequest MethodMetadataRequest"),
)
