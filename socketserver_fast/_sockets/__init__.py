"""The lowest room: one connection or one datagram socket at a time.

`wait` is the one place that blocks. It imports nothing of the package above it.
"""
