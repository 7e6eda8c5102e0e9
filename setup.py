"""The extension modules; everything else about the project stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

# SOCKETSERVER_FAST_PORTABLE=1 builds what a system without poll(2), accept4(2), recvmmsg(2) and
# eventfd(2) gets, so that those paths can be tested anywhere.
macros = [("SSF_PORTABLE", "1")] if os.environ.get("SOCKETSERVER_FAST_PORTABLE") == "1" else []

modules = ["_wait", "_requests", "_backlog", "_loop", "_stream", "_datagram", "_pool"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"socketserver_fast.{name}",
                [f"socketserver_fast/{name}.pyx"],
                depends=["socketserver_fast/_portable.h"],
                define_macros=macros,
            )
            for name in modules
        ],
    ),
)
