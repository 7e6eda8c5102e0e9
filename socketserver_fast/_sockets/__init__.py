"""The lowest room: reads and writes one connection or one datagram socket.

Only `wait` blocks. Imports nothing else of the package.
"""
