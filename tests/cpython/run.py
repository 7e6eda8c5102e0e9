"""Run one of CPython's test modules in this process and write what happened as JSON.

Usage: run.py MODE MODULE RESULT_FILE, with MODE one of unmodified, stand-in, patched."""

import faulthandler
import json
import pathlib
import sys
import unittest

GIVE_UP = 100  # seconds; the longest module, test_logging, takes 13


def stand_in():
    """Put the package where `import socketserver` finds it; return the check that it was used."""
    assert "socketserver" not in sys.modules, "socketserver was imported too early"
    import socketserver_fast

    sys.modules["socketserver"] = socketserver_fast

    def check():
        import socketserver

        assert socketserver is socketserver_fast
        for user in ("http.server", "xmlrpc.server", "test.test_socketserver"):
            if user in sys.modules:
                assert sys.modules[user].socketserver is socketserver_fast, user
        if "logging.config" in sys.modules:
            server = sys.modules["logging.config"].ThreadingTCPServer
            assert server is socketserver_fast.ThreadingTCPServer

    return check


def patched():
    """Patch the stdlib; return the check that it still is."""
    import socketserver

    original = {
        socketserver.BaseServer: socketserver.BaseServer.serve_forever,
        socketserver.StreamRequestHandler: socketserver.StreamRequestHandler.setup,
    }
    import socketserver_fast

    socketserver_fast.patch()

    def check():
        assert sys.modules["socketserver"] is socketserver
        for cls, method in original.items():
            assert getattr(cls, method.__name__) is not method, method

    return check


def unmodified():
    """Leave the interpreter as it is; return the check that the package is not there."""

    def check():
        assert "socketserver_fast" not in sys.modules

    return check


def test_id(test):
    """The id of a test or of the test that a subtest belongs to."""
    return getattr(test, "test_case", test).id()


def run(module):
    """Run the test module as `-m test -u network` does; return the unittest result."""
    from test import support

    support.use_resources = {"network": None}
    support.verbose = 0
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")
    return unittest.TextTestRunner(stream=sys.stdout).run(suite)


def main(mode, module, result_file):
    """Run `module` in the given mode and write the counts and the failed ids."""
    faulthandler.dump_traceback_later(GIVE_UP, exit=True)
    check = {"stand-in": stand_in, "patched": patched, "unmodified": unmodified}[mode]()
    check()
    result = run(module)
    check()
    failed = [test for test, _ in result.failures + result.errors] + result.unexpectedSuccesses
    outcome = {
        "ran": result.testsRun - len(result.skipped),
        "failed": sorted({test_id(test) for test in failed}),
    }
    pathlib.Path(result_file).write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
