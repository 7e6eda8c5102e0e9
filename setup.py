"""The extension modules; everything else about the project stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

# SOCKETSERVER_FAST_TRACE=1 lets coverage see the lines of the .pyx files.
traced = os.environ.get("SOCKETSERVER_FAST_TRACE") == "1"
tracing = [("CYTHON_TRACE_NOGIL", "1")] if traced else []

# SOCKETSERVER_FAST_PORTABLE=1 builds what a system without poll(2), accept4(2), recvmmsg(2) and
# eventfd(2) gets, so that those paths can be tested anywhere.
macros = [("SSF_PORTABLE", "1")] if os.environ.get("SOCKETSERVER_FAST_PORTABLE") == "1" else []

modules = [
    "_wait", "_requests", "_datagram", "_running", "_dispatch", "_backlog", "_loop", "_buffer",
    "_stream", "_packet", "_shared_listener", "_workers", "_pool", "_deadlines", "_hub",
    "_parking", "_green",
]
# In these a greenlet may be switched, so nothing of the thread's state may be kept from before a
# call to after it.
switching = {"_wait", "_stream", "_hub", "_parking", "_green"}
uncached = [("CYTHON_FAST_THREAD_STATE", "0")]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"socketserver_fast.{name}",
                [f"socketserver_fast/{name}.pyx"],
                depends=["socketserver_fast/_portable.h", "socketserver_fast/_hub.h"],
                define_macros=macros + tracing + (uncached if name in switching else []),
            )
            for name in modules
        ],
        compiler_directives={"linetrace": traced},
    ),
)
