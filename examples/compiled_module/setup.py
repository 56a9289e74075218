"""Build the module against the FlowOS that is installed: its headers and declarations lie in the package."""
from pathlib import Path

import flowos.core
from Cython.Build import cythonize
from setuptools import Extension, setup

core = Path(flowos.core.__file__).parent
extension = Extension("byte_entropy", ["byte_entropy.pyx"], include_dirs=[str(core)], extra_compile_args=["-O3"])
setup(ext_modules=cythonize([extension], language_level=3, include_path=[str(core.parent.parent)],     # for editable installs
                            compiler_directives={"boundscheck": False, "wraparound": False}))
