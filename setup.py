"""The extension modules: one of each .pyx, and what Cython puts into all of them, once.

All else about the project stands in pyproject.toml.
"""

import os
import sys
import sysconfig
from pathlib import Path

from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("socketserver_fast")
SHARED = "socketserver_fast._socketserver_shared"  # known in sys.modules by its last name, too
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
    """Return the path of the module in the source tree."""
    return Path(*extension.name.split(".")).with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))


def up_to_date(extension):
    """Return whether the module in the source tree is newer than all that it is made from."""
    made_from = [Path(name) for name in [*extension.sources, *extension.depends]]
    made = built(extension)
    return made.exists() and all(made.stat().st_mtime > path.stat().st_mtime
                                 for path in made_from if path.exists())


def settings_file():
    """Return a file that is newer than the modules if they were built with other settings."""
    path = Path("build", "settings")
    settings = f"{MACROS} {NO_SYMBOLS} {os.environ.get('CFLAGS')} {cython_version}"
    if not path.exists() or path.read_text() != settings:
        path.parent.mkdir(exist_ok=True)
        path.write_text(settings)
    return path


def extensions():
    """Return the extension of each .pyx, and the shared one, whose .c is generated as well."""
    depends = [str(path) for path in [*PACKAGE.rglob("*.pxd"), *PACKAGE.rglob("*.h")]]
    settings = str(settings_file())
    modules = [extension(".".join(source.with_suffix("").parts), source, [*depends, settings])
               for source in sorted(PACKAGE.rglob("*.pyx"))]
    return [*modules, extension(SHARED, PACKAGE / "_socketserver_shared.c", [settings])]


def extension(name, source, depends):
    """Return the extension of one source."""
    return Extension(
        name, [str(source)], depends=depends, include_dirs=[str(PACKAGE)], define_macros=MACROS,
        extra_compile_args=NO_SYMBOLS)


def compiled(modules):
    """Generate the .c of the modules that have changed; return all of them."""
    changed = [module for module in modules if not up_to_date(module)]
    directives = {"auto_pickle": False, "freethreading_compatible": True, "linetrace": TRACED}
    made = cythonize(changed, nthreads=JOBS, compiler_directives=directives,
                     shared_utility_qualified_name=SHARED)
    return [*made, *(module for module in modules if module not in changed)]


if __name__ == "__main__":  # Cython's processes import this file too
    setup(
        ext_modules=compiled(extensions()),
        cmdclass={"build_ext": BuildChanged},
        options={"build_ext": {"parallel": JOBS}},
    )
