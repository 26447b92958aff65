"""The model formats, one module each: how its artefact is opened, what it says of itself, how it is asked.

:mod:`.table` lists them. A module here imports its library only when a model of its format is opened, so that a server
needs nothing but the one it serves. Each has two functions: ``check(artefact)`` raises
:class:`~mlmodel_server.errors.RefusedModel` for a file that would do more than compute, and
``opened(artefact, threads)`` opens it; :mod:`~mlmodel_server.loading.trust` is their only caller. Those of
scikit-learn, which are pickles or made like them, are taken apart there and come here as estimators.
"""
