"""One module per figure that we promise, each against its peer; `python -m bench` runs them all.

Every module prints one table and ends in a JSON line. CPU seconds of whole processes, paired and interleaved.
"""
