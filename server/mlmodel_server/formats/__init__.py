"""The model formats, one module each: how to open the artefact, which inputs and outputs it declares, how to predict.

:mod:`.table` lists them. A module imports its library only when it opens a model, so a server needs only the libraries
of the model that it serves. Each module has two functions. ``check(artefact)`` raises
:class:`~mlmodel_server.errors.RefusedModel` for a file that would do more than compute, and may return the artefact to
open in its place: what was read and checked. ``opened(artefact, threads)`` opens it.
:mod:`~mlmodel_server.loading.trust` is their only caller; it also reads scikit-learn's formats, which are pickles or
similar, so the module of scikit-learn gets estimators.
"""
