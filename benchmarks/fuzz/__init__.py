"""A fuzz run over all that users and storage hand to the project: `python -m benchmarks.fuzz`.

`kinds` says what an input may end in and who judges it, `mutations` makes malformed ones of valid ones. The
inputs are in `requests`, `settings` (and search spaces) and `stored` (ledger, claims, weights, names).
tests/test_fuzz.py runs the same with small numbers.
"""
