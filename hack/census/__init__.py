"""The census: one model of every class that libraries offer, served in every format, against the library's own answers.

``python -m hack.census run`` writes the verdicts, ``python -m hack.census page`` the page that people read.
"""
