"""Every stage measured against its peers and its limit; see `python -m benchmarks --help`.

A stage is a module of `benchmarks.stages`:

    THREADS = (1, 2)                       # each in a process of its own
    def cases(quick, threads): yield Case(...) or Figure(...)      # see harness.py
"""
