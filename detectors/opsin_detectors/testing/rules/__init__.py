"""The rules of `opsin_detectors.api`, each a function that looks at a detector.

A rule answers what it saw when all is well, raises `Broken` when it is not, and `Skipped` when it has nothing
to say. Its name is the function's.
"""
