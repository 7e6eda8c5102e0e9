"""Logs and prints when something goes wrong. Neither raises an Exception.

`logging` is not imported here: without free descriptors an import fails, and logging costs each
fork() of a forking server 4 %. A program that has not imported it has not configured it either, so
warnings go where logging would send them: to sys.stderr.
"""

import sys
import traceback
from contextlib import suppress


class Logger:
    """Stands in for the logger "socketserver_fast". Ignores a full disk or a broken log handler."""

    def debug(self, message, *arguments):
        """Log at debug level."""
        self.log("debug", message, arguments)

    def warning(self, message, *arguments):
        """Log a warning."""
        self.log("warning", message, arguments)

    def error(self, message, *arguments):
        """Log an error."""
        self.log("error", message, arguments)

    def log(self, level, message, arguments):
        """Log at a level, as coming from the caller of debug(), warning() or error()."""
        with suppress(Exception):
            logging = sys.modules.get("logging")
            if hasattr(logging, "getLogger"):  # not while another thread imports it
                method = getattr(logging.getLogger("socketserver_fast"), level)
                method(message, *arguments, stacklevel=3)
            elif level != "debug" and sys.stderr is not None:
                print(message % arguments, file=sys.stderr)


_logger = Logger()


def logger():
    """Return the Logger of the package."""
    return _logger


def print_exception(client_address):
    """Print the exception that is being handled to sys.stderr, as handle_error() does."""
    error = sys.exception()
    line = "-" * 40
    with suppress(Exception):  # sys.stderr may be closed, or be on a full disk
        print(line, file=sys.stderr)
        # The path of a client's Unix socket may have newlines in it.
        shown = client_address if str(client_address).isprintable() else repr(client_address)
        print("Exception occurred during processing of request from", shown, file=sys.stderr)
        try:
            traceback.print_exc()
        except Exception:  # it reads the source and imports what that takes
            sys.__excepthook__(type(error), error, error.__traceback__)
        print(line, file=sys.stderr)
