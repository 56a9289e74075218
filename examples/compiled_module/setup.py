"""Build the module against the FlowOS that is installed: its headers lie in the package."""
from pathlib import Path

import flowos.core
from Cython.Build import cythonize
from setuptools import Extension, setup

headers = str(Path(flowos.core.__file__).parent)
setup(ext_modules=cythonize([Extension("byte_entropy", ["byte_entropy.pyx"], include_dirs=[headers])], language_level=3))
