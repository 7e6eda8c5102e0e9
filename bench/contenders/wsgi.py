"""WSGI servers from outside: one worker process with what it has by default, or the 8 threads that
its documentation's examples have."""

import socket
import threading
import time

from bench.contenders.work import application

BACKLOG = 1024
START_WITHIN = 10  # seconds


def cheroot(task, announce):
    """cheroot, 10 threads."""
    from cheroot.wsgi import Server

    server = Server(task.address, application, request_queue_size=BACKLOG)
    server.prepare()
    announce(task.transport, server.bind_addr)
    server.serve()


def waitress(task, announce):
    """waitress, 8 threads."""
    from waitress.server import create_server

    server = create_server(application, host="127.0.0.1", port=0, backlog=BACKLOG, threads=8)
    announce(task.transport, server.socket.getsockname())
    server.run()


def gevent_pywsgi(task, announce):
    """gevent's pywsgi, without its log."""
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(task.address, application, log=None, backlog=BACKLOG)
    server.start()
    announce(task.transport, server.socket.getsockname())
    server.serve_forever()


def werkzeug(task, announce):
    """werkzeug's development server with threads."""
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, application, threaded=True)
    announce(task.transport, server.socket.getsockname())
    server.serve_forever()


def gunicorn_gthread(task, announce):
    """gunicorn, a worker with 8 threads."""
    gunicorn(task, announce, worker_class="gthread", threads=8)


def gunicorn_gevent(task, announce):
    """gunicorn, a worker on gevent."""
    import gevent  # noqa: F401

    gunicorn(task, announce, worker_class="gevent")


def gunicorn(task, announce, **settings):
    """gunicorn on a socket that listens already, so that its port is known."""
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self):
            for name, value in settings.items():
                self.cfg.set(name, value)
            self.cfg.set("bind", f"fd://{listener.fileno()}")
            self.cfg.set("backlog", BACKLOG)
            self.cfg.set("loglevel", "warning")

        def load(self):
            return application

    with socket.create_server(task.address, backlog=BACKLOG) as listener:
        announce(task.transport, listener.getsockname())
        Application().run()


def granian(task, announce):
    """granian, a worker."""
    from granian import Granian

    with socket.create_server(task.address) as found:
        host, port = found.getsockname()
    server = Granian("bench.contenders.work:application", address=host, port=port,
                     interface="wsgi", backlog=BACKLOG, log_enabled=False)
    threading.Thread(target=announce_when_it_listens, args=(task, announce, (host, port)),
                     daemon=True).start()
    server.serve()


def announce_when_it_listens(task, announce, address):
    """For a server that says nothing."""
    until = time.monotonic() + START_WITHIN
    while time.monotonic() < until:
        try:
            socket.create_connection(address, 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            announce(task.transport, address)
            return
