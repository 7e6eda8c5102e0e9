"""The extension modules: one of each .pyx. All else about the project stands in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# SOCKETSERVER_FAST_TRACE=1 lets coverage see the lines of the .pyx files.
traced = os.environ.get("SOCKETSERVER_FAST_TRACE") == "1"
tracing = [("CYTHON_TRACE_NOGIL", "1")] if traced else []

# SOCKETSERVER_FAST_PORTABLE=1 builds what a system without poll(2), accept4(2), recvmmsg(2) and
# eventfd(2) gets, so that those paths can be tested anywhere.
macros = [("SSF_PORTABLE", "1")] if os.environ.get("SOCKETSERVER_FAST_PORTABLE") == "1" else []

# Whatever is called may switch greenlets, so nothing of the thread's state is kept from before a
# call to after it. That costs nothing that could be measured.
macros.append(("CYTHON_FAST_THREAD_STATE", "0"))

package = Path("socketserver_fast")

setup(
    ext_modules=cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                depends=sorted(map(str, package.rglob("*.h"))),
                define_macros=macros + tracing,
            )
            for source in sorted(package.rglob("*.pyx"))
        ],
        compiler_directives={"linetrace": traced, "auto_pickle": False},
    ),
)
