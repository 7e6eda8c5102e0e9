"""Holds the parts of `python -m socketserver_fast serve` that are not the server.

It is above the public modules: it imports handlers, metrics and servers.
"""
