"""Print, as JSON, the microseconds that the server's code takes for one request; the minimum of many repetitions."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable

import numpy as np

from bench.serving.models import binary_request, json_request
from mlmodel_server.protocol import v2
from mlmodel_server.tensors import InferResponse, named

REPETITIONS = 200


def microseconds(call: Callable[[], object]) -> float:
    """Return the minimum of many repetitions, because noise only adds time."""
    loops = 200
    return 1e6 * min(timeit.repeat(call, repeat=REPETITIONS, number=loops)) / loops


def main() -> None:
    """Measure and print."""
    table = np.random.default_rng(1).normal(size=(1000, 30)).astype(np.float32)
    large = binary_request(table, [])
    length = dict(large.headers)["Inference-Header-Content-Length"]
    small = json_request(np.array([[5.1, 3.5, 1.4, 0.2]]), "FP64", []).body
    answer = InferResponse(None, [named("predict", np.array([1]))])
    print(
        json.dumps(
            {
                "decode, 30,000 FP32, binary": microseconds(lambda: v2.decode(large.body, int(length))),
                "decode, row of iris, JSON": microseconds(lambda: v2.decode(small)),
                "encode, one label, JSON": microseconds(lambda: v2.encode(answer, "model", "1")),
            }
        )
    )


if __name__ == "__main__":
    main()
