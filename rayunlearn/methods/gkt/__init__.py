"""Gated knowledge transfer (zero-shot paper, section IV.C and algorithm 2).

Three roles and the messages between them. Data flows in one circle, so that the band-pass filter is a
place and not a promise: images leave the generator for the teacher, and only what passes goes on to
the student, which never holds an image that the filter refused.

    generator --images--> teacher --passed images, logits, attention maps--> student
    generator <--gradient for the images-- teacher <--gradients for what it was given-- student

`run_cycle` is the algorithm. It never looks inside a message, so the roles may be objects in this
process or handles to others (see `rayunlearn.execution.executor`), with the same weights as a result.

The teacher is frozen and in eval mode. The student is in train mode when it learns and in eval mode,
its statistics untouched, when the generator is trained against it. Where the paper and the authors'
published code differ, `rayunlearn.recipes` says which one a recipe follows.
"""

