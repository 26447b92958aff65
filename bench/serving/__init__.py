"""The model server compared with its peers: same models, same load, one run, as ratios. ``python -m bench serving``.

Every server has one worker and runs, with its child processes, alone on one CPU; the load generator runs on another.
Rounds are interleaved, so that noise affects all servers alike.
"""
