"""The logger of the package. It is imported when there is something to say, not before.

`logging` registers what runs in each child after a fork, and has many pages to copy: each request
of a forking server would pay for that.
"""


def logger():
    """The logger "socketserver_fast"."""
    import logging

    return logging.getLogger("socketserver_fast")
