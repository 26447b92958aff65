"""All measurements, one after the other."""

from tests.bench import decisions, router

decisions.main()
print()
router.main()
