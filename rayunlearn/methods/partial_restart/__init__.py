"""Partial restart: the first layers are kept, the others learn anew, from pictures that are of no data set.

EU-k (Goel et al. 2022, arXiv 2201.06640) retrains the last layers from random weights on the retain data.
Here these are gone, and the version itself says what the layers have to learn: its answers to procedural
pictures, with the logits of the classes to forget lowered to the row's minimum. Three roles, in one circle:

    source --pictures--> teacher --pictures that are of no class to forget, targets--> student

The kept layers are frozen with their statistics, so whatever they know of a class stays. The more are kept,
the less is lost, and the more is left of the class: the gate's probe says whether it is too much.
"""
