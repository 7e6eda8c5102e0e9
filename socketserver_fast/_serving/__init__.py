"""Serves: the loop, the hooks that it calls, the requests in progress, and the end of a server.

Imports from _sockets.
"""
