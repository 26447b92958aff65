"""The whole operator process with a toy controller: ``python -m tests.integration.operator.toy_operator PORT``.

For each MLModel it maintains one ConfigMap ``NAME-toy`` with the uri of the model. If the uri is ``builtin://slow``,
reconciling takes two seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from mlmodel_operator.__main__ import main
from mlmodel_operator.controller import MODELS
from mlmodel_operator.names import MANAGED_BY_LABEL, MODEL_LABEL, OPERATOR
from mlmodel_operator.process import Parts
from mlmodel_operator.runtime.resource import CONFIG_MAPS, Body, uid
from mlmodel_operator.runtime.workers import Key, Reconcile

# A child of the operator's logger, so that it has the same level and format.
logger = logging.getLogger("mlmodel_operator.toy")


def build(parts: Parts) -> Reconcile:
    """Return the toy's reconcile function."""

    async def reconcile(key: Key) -> float | None:
        model = parts.store.get(MODELS, *key)
        if model is None or model["metadata"].get("deletionTimestamp"):
            logger.info("deleted %s", key[1])
            return None
        uri = model["spec"]["model"]["uri"]
        if uri == "builtin://slow":
            logger.info("slow started")
            await asyncio.sleep(2)
        await parts.applier.apply(CONFIG_MAPS, toy(model))
        status = {"url": uri}
        if model.get("status") != status:
            written = await parts.api.replace_status(MODELS, {**model, "status": status})
            parts.store.put(MODELS, written)
            await parts.events.post(model, transition=str(written["metadata"]["generation"]), reason="Seen", note=uri)
        logger.info("done %s", uri)
        return None

    return reconcile


def toy(model: Body) -> Body:
    """Return the child of a model."""
    meta = model["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": meta["namespace"],
            "name": f"{meta['name']}-toy",
            "labels": {MANAGED_BY_LABEL: OPERATOR, MODEL_LABEL: meta["name"]},
            "ownerReferences": [
                {
                    "apiVersion": MODELS.api_version,
                    "kind": MODELS.kind,
                    "name": meta["name"],
                    "uid": uid(model),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "data": {"uri": model["spec"]["model"]["uri"]},
    }


if __name__ == "__main__":
    main(build, int(sys.argv[1]), [])
