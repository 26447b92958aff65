"""Where a model's files come from: one module per kind of source. :func:`locate` returns the source of a URI.

Each file is read once into memory and its digest is that of these bytes, so a file that is replaced in the source
between check and parse has no effect. The size of a file, the number of files and their total size are limited.
"""

from mlmodel_server.loading.sources.fetched import fetch
from mlmodel_server.loading.sources.local import Local
from mlmodel_server.loading.sources.locate import locate, remote
from mlmodel_server.loading.sources.source import Memory, Once, Source

__all__ = ["Local", "Memory", "Once", "Source", "fetch", "locate", "remote"]
