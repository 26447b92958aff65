"""The rehearsal: a candidate is sent copies of requests that stable has answered, before any client reaches it.

A worker keeps a sample of its requests in memory (``sample``). While a file names a candidate (``target``), another
process sends copies of them, which both sides recognise by a code that only they can make (``authentic``).
"""
