"""Distance metrics: compiled code reads as many weights as a row has columns."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (
    *of(
        "sklearn.metrics._dist_metrics",
        "BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance32 CanberraDistance64 ChebyshevDistance32 "
        "ChebyshevDistance64 DiceDistance32 DiceDistance64 EuclideanDistance32 EuclideanDistance64 "
        "HammingDistance32 HammingDistance64 HaversineDistance32 HaversineDistance64 JaccardDistance32 "
        "JaccardDistance64 KulsinskiDistance32 KulsinskiDistance64 MahalanobisDistance32 MahalanobisDistance64 "
        "ManhattanDistance32 ManhattanDistance64 MatchingDistance32 MatchingDistance64 MinkowskiDistance32 "
        "MinkowskiDistance64 PyFuncDistance32 PyFuncDistance64 RogersTanimotoDistance32 RogersTanimotoDistance64 "
        "RussellRaoDistance32 RussellRaoDistance64 SEuclideanDistance32 SEuclideanDistance64 "
        "SokalMichenerDistance32 SokalMichenerDistance64 SokalSneathDistance32 SokalSneathDistance64",
    ),
)
