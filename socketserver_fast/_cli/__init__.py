"""The parts of `python -m socketserver_fast serve` that are not the server.

Stands above the public modules: imports handlers, metrics and servers.
"""
