"""Build the module against the FlowOS that is installed: its headers lie in the package."""
from pathlib import Path

import flowos.core
from Cython.Build import cythonize
from setuptools import Extension, setup

headers = str(Path(flowos.core.__file__).parent)
extension = Extension("byte_entropy", ["byte_entropy.pyx"], include_dirs=[headers], extra_compile_args=["-O3"])
setup(ext_modules=cythonize([extension], language_level=3, compiler_directives={"boundscheck": False, "wraparound": False}))
