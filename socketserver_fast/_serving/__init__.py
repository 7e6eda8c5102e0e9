"""How every server serves: the loop, the hooks that it calls, what is in progress, and how it ends.

Imports from _sockets.
"""
