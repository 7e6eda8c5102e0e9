"""Holds the parts of patch(): how it replaces methods, and those of each model of threads.

It is above the public modules: it imports green, mixins and pool.
"""
