"""The parts of patch(): how methods are replaced, and which ones a model of threads replaces.

Stands above the public modules: imports green, mixins and pool.
"""
