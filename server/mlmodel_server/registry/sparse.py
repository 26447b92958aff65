"""Sparse matrices: compiled code follows their indices without a check."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of("scipy.sparse._bsr", "bsr_array bsr_matrix"),
    *of("scipy.sparse._coo", "coo_array coo_matrix"),
    *of("scipy.sparse._csc", "csc_array csc_matrix"),
    *of("scipy.sparse._csr", "csr_array csr_matrix"),
    *of("scipy.sparse._dia", "dia_array dia_matrix"),
    *of("scipy.sparse._dok", "dok_array dok_matrix"),
    *of("scipy.sparse._lil", "lil_array lil_matrix"),
)
