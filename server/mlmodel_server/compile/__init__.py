"""Verified compile: an estimator becomes an ONNX model if that answers the same and faster, never otherwise.

What serves (:class:`OnnxFunctions`, :class:`Verdict`) imports neither scikit-learn nor onnx.
"""

from mlmodel_server.compile.child import compile_in_child
from mlmodel_server.compile.functions import OnnxFunctions
from mlmodel_server.compile.verdict import Verdict
from mlmodel_server.compile.verify import compile_model

__all__ = ["OnnxFunctions", "Verdict", "compile_in_child", "compile_model"]
