"""Verified compile: turn an estimator into an ONNX model, only if that gives the same predictions faster.

The classes for serving (:class:`OnnxFunctions`, :class:`Verdict`) import neither scikit-learn nor onnx.
"""

from mlmodel_server.compile.child import compile_in_child
from mlmodel_server.compile.functions import OnnxFunctions, Routed, compilable, how_to_get, left_out, loaded
from mlmodel_server.compile.verdict import Verdict
from mlmodel_server.compile.verify import compile_model

__all__ = [
    "OnnxFunctions",
    "Routed",
    "Verdict",
    "compilable",
    "compile_in_child",
    "compile_model",
    "how_to_get",
    "left_out",
    "loaded",
]
