"""The worker threads of a ThreadPoolMixIn, and how they share the listener.

Imports from _serving and _sockets.
"""
