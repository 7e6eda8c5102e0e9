"""The extension modules: one of each .pyx. All else about the project stands in pyproject.toml."""

import os
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("socketserver_fast")
JOBS = os.cpu_count() or 1

# SOCKETSERVER_FAST_TRACE=1 lets coverage see the lines of the .pyx files.
TRACED = os.environ.get("SOCKETSERVER_FAST_TRACE") == "1"

# SOCKETSERVER_FAST_PORTABLE=1 builds what a system without poll(2), accept4(2), recvmmsg(2) and
# eventfd(2) gets, so that those paths can be tested anywhere.
PORTABLE = os.environ.get("SOCKETSERVER_FAST_PORTABLE") == "1"

# Any call may switch greenlets, so nothing of the thread's state is kept from before a call to
# after it. That costs nothing that could be measured.
MACROS = [("CYTHON_FAST_THREAD_STATE", "0")]
MACROS += [("CYTHON_TRACE_NOGIL", "1")] * TRACED + [("SSF_PORTABLE", "1")] * PORTABLE

# Debug symbols are nine tenths of a module. CFLAGS="-g" brings them back.
NO_SYMBOLS = [] if sys.platform == "win32" or "CFLAGS" in os.environ else ["-g0"]


class BuildChanged(build_ext):
    """Takes a module that is up to date from the source tree.

    An editable install builds in a temporary folder, and would compile everything each time.
    """

    def build_extension(self, extension):
        if up_to_date(extension):
            target = Path(self.get_ext_fullpath(extension.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(built(extension)), str(target))
        else:
            super().build_extension(extension)


def built(extension):
    """The module in the source tree."""
    return Path(*extension.name.split(".")).with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))


def up_to_date(extension):
    """Whether the module in the source tree is newer than all that it is made from."""
    made_from = [*extension.sources, *extension.depends]
    made = built(extension)
    return made.exists() and all(made.stat().st_mtime > Path(s).stat().st_mtime for s in made_from)


def settings_file():
    """A file that is newer than the modules when they were built with other settings."""
    path = Path("build", "settings")
    settings = f"{MACROS} {NO_SYMBOLS} {os.environ.get('CFLAGS')}"
    if not path.exists() or path.read_text() != settings:
        path.parent.mkdir(exist_ok=True)
        path.write_text(settings)
    return path


def extensions():
    """The extension of each .pyx."""
    depends = [str(path) for path in [*PACKAGE.rglob("*.pxd"), *PACKAGE.rglob("*.h")]]
    depends.append(str(settings_file()))
    return [
        Extension(
            ".".join(source.with_suffix("").parts), [str(source)], depends=depends,
            include_dirs=[str(PACKAGE)], define_macros=MACROS, extra_compile_args=NO_SYMBOLS,
        )
        for source in sorted(PACKAGE.rglob("*.pyx"))
    ]  # fmt: skip


if __name__ == "__main__":  # Cython's processes import this file too
    modules = extensions()
    changed = [module for module in modules if not up_to_date(module)]
    directives = {"linetrace": TRACED, "auto_pickle": False}
    setup(
        ext_modules=[
            *cythonize(changed, nthreads=JOBS, compiler_directives=directives),
            *(module for module in modules if module not in changed),
        ],
        cmdclass={"build_ext": BuildChanged},
        options={"build_ext": {"parallel": JOBS}},
    )
