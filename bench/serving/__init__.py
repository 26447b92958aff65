"""The model server beside its peers: same models and load, one run, ratios. ``python -m bench serving``.

Every server has one worker and is alone on one CPU with whatever processes it starts, the load generator is on another;
rounds are interleaved, so that what disturbs the machine disturbs all of them.
"""
