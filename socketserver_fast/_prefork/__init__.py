"""The parent of the worker processes of a PreforkMixIn, and the workers.

Imports from _serving and _sockets.
"""
