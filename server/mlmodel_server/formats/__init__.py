"""The model formats, one module each: how its artefact is opened, what it says of itself, how it is asked.

:mod:`.table` lists them. A module here imports its library only when a model of its format is opened, so that a server
needs nothing but the one it serves.
"""
