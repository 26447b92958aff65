"""Verified compile: an estimator becomes an ONNX model if that answers the same and faster, never otherwise.

What serves (:class:`OnnxFunctions`, :class:`Verdict`) imports neither scikit-learn nor onnx.
"""

from .child import compile_in_child
from .functions import OnnxFunctions
from .verdict import Verdict
from .verify import compile_model

__all__ = ["OnnxFunctions", "Verdict", "compile_in_child", "compile_model"]
