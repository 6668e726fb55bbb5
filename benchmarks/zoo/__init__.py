"""Models of which it is known what they keep and what they have forgotten, to judge the judge by.

`python -m benchmarks.zoo` builds them: originals on several data sets and networks, models retrained without
some classes, what every method makes of the originals at several steps, models in which a class is merely
hidden, and models that are damaged by a known measure. Weights are cached outside the repository; what was
measured on real data is stored as one table, `docs/results/zoo.parquet`.
"""
