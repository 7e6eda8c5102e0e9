import os as os
import selectors as selectors
import socket as socket
import sys as sys
import threading as threading
from io import BufferedIOBase as BufferedIOBase
from time import monotonic as time

from socketserver_fast.green import GreenletMixIn as GreenletMixIn
from socketserver_fast.green import GreenletTCPServer as GreenletTCPServer
from socketserver_fast.green import GreenletUDPServer as GreenletUDPServer
from socketserver_fast.handlers import BaseRequestHandler as BaseRequestHandler
from socketserver_fast.handlers import DatagramRequestHandler as DatagramRequestHandler
from socketserver_fast.handlers import StreamRequestHandler as StreamRequestHandler
from socketserver_fast.handlers import _SocketWriter as _SocketWriter
from socketserver_fast.handlers import send_file as send_file
from socketserver_fast.mixins import *
from socketserver_fast.mixins import _NoThreads as _NoThreads
from socketserver_fast.mixins import _Threads as _Threads
from socketserver_fast.patching import drain as drain
from socketserver_fast.patching import patch as patch
from socketserver_fast.patching import serve_until_signal as serve_until_signal
from socketserver_fast.patching import unpatch as unpatch
from socketserver_fast.pool import *
from socketserver_fast.servers import *

_ServerSelector: type[selectors.BaseSelector]
__version__: str

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadPoolMixIn",
    "ThreadPoolTCPServer",
    "ThreadPoolUDPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
    "drain",
    "patch",
    "send_file",
    "serve_until_signal",
    "unpatch",
]
if sys.platform != "win32":
    from socketserver_fast.green import GreenletUnixDatagramServer as GreenletUnixDatagramServer
    from socketserver_fast.green import GreenletUnixStreamServer as GreenletUnixStreamServer
    from socketserver_fast.prefork import *

    __all__ += [
        "ForkingMixIn",
        "ForkingTCPServer",
        "ForkingUDPServer",
        "ForkingUnixDatagramServer",
        "ForkingUnixStreamServer",
        "PreforkMixIn",
        "PreforkTCPServer",
        "PreforkUDPServer",
        "PreforkUnixDatagramServer",
        "PreforkUnixStreamServer",
        "ThreadPoolUnixDatagramServer",
        "ThreadPoolUnixStreamServer",
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]
