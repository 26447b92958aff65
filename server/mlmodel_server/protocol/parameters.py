"""Parameters of a request that the server supports or rejects, on every transport."""

from __future__ import annotations

from mlmodel_server.errors import RequestError
from mlmodel_server.tensors import NO_PARAMETERS, InferRequest, Parameters, quoted

BINARY = "binary_data"
ALL_BINARY = "binary_data_output"
SIZE = "binary_data_size"

# Some clients send these, and a response that ignores them would be wrong. Other unknown parameters are ignored.
_UNSUPPORTED = {
    "classification": "request the output predict_proba instead",
    "shared_memory_region": "send the data in the request and read it from the response",
}


def check_request(parameters: Parameters) -> None:
    """Raise :class:`RequestError` when a parameter of the whole request has the wrong type."""
    _check_flag(parameters, ALL_BINARY, "the request")


def check_input(name: str, parameters: Parameters) -> None:
    """Raise :class:`RequestError` when a parameter of an input is not supported."""
    _check_supported(parameters, f"input {quoted(name)}")


def check_output(name: str, parameters: Parameters) -> None:
    """Raise :class:`RequestError` when a parameter of a requested output has the wrong type or is not supported."""
    _check_flag(parameters, BINARY, f"output {quoted(name)}")
    _check_supported(parameters, f"output {quoted(name)}")


def is_binary_requested(request: InferRequest, output: str) -> bool:
    """Return whether the client requests this output as binary data: this one, or else all of them."""
    own = request.output_parameters.get(output, NO_PARAMETERS).get(BINARY)
    return bool(request.parameters.get(ALL_BINARY) if own is None else own)


def _check_flag(parameters: Parameters, name: str, where: str) -> None:
    if not isinstance(parameters.get(name, False), bool):
        raise RequestError(f"{where}: the parameter {name} must be true or false")


def _check_supported(parameters: Parameters, where: str) -> None:
    for name, instead in _UNSUPPORTED.items():
        if name in parameters:
            raise RequestError(f"{where}: the parameter {name} is not supported; {instead}")
