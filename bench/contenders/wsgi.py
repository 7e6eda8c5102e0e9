"""WSGI servers from outside, with their default numbers of threads (stated in the README)."""

from bench.contenders.work import application

BACKLOG = 1024


def cheroot(task, announce):
    """cheroot, 10 threads."""
    from cheroot.wsgi import Server

    server = Server(task.address, application, request_queue_size=BACKLOG)
    server.prepare()
    announce(task.transport, server.bind_addr)
    server.serve()


def waitress(task, announce):
    """waitress, 4 threads."""
    from waitress.server import create_server

    server = create_server(application, host="127.0.0.1", port=0, backlog=BACKLOG)
    announce(task.transport, server.socket.getsockname())
    server.run()
