"""Where a model's files come from: one module per kind of source. :func:`locate` tells which one a URI means.

Files are read once into memory and digests are taken of those very bytes, so nobody who can write to the source can
swap a file between the check and the parse. What is read is bounded per file, in number and altogether.
"""

from mlmodel_server.loading.sources.local import Local
from mlmodel_server.loading.sources.locate import locate
from mlmodel_server.loading.sources.source import Memory, Source

__all__ = ["Local", "Memory", "Source", "locate"]
