"""The hub on which greenlets wait, and the sockets that park them.

Needs the package greenlet. Imports from _serving and _sockets.
"""
