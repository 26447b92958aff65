"""Parameters that a request carries: what of them the server knows, on every transport."""

from __future__ import annotations

from mlmodel_server.errors import RequestError
from mlmodel_server.tensors import NO_PARAMETERS, InferRequest, Parameters, shown

BINARY = "binary_data"
ALL_BINARY = "binary_data_output"
SIZE = "binary_data_size"

# Known to some clients, and an answer without them would be a wrong one. Every other unknown parameter is let pass.
_UNSUPPORTED = {
    "classification": "ask for the output predict_proba instead",
    "shared_memory_region": "send the data in the request and read it from the answer",
}


def check_request(parameters: Parameters) -> None:
    """:class:`RequestError` when a parameter of the whole request is of the wrong type."""
    _check_flag(parameters, ALL_BINARY, "the request")


def check_input(name: str, parameters: Parameters) -> None:
    """:class:`RequestError` when a parameter of an input asks for what this server does not do."""
    _check_supported(parameters, f"input {shown(name)}")


def check_output(name: str, parameters: Parameters) -> None:
    """:class:`RequestError` when a parameter of a requested output is of the wrong type or asks for what cannot be."""
    _check_flag(parameters, BINARY, f"output {shown(name)}")
    _check_supported(parameters, f"output {shown(name)}")


def wants_binary(request: InferRequest, output: str) -> bool:
    """Whether the client asked for this output as binary data: for this one, or else for all of them."""
    own = request.output_parameters.get(output, NO_PARAMETERS).get(BINARY)
    return bool(request.parameters.get(ALL_BINARY) if own is None else own)


def _check_flag(parameters: Parameters, name: str, where: str) -> None:
    if not isinstance(parameters.get(name, False), bool):
        raise RequestError(f"{where}: the parameter {name} must be true or false")


def _check_supported(parameters: Parameters, where: str) -> None:
    for name, instead in _UNSUPPORTED.items():
        if name in parameters:
            raise RequestError(f"{where}: the parameter {name} is not supported; {instead}")
