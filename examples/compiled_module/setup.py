"""Build the module against the FlowOS that is installed: its headers and declarations lie in the package."""
from pathlib import Path

import flowos.core
from Cython.Build import cythonize
from setuptools import Extension, setup

core = Path(flowos.core.__file__).parent
setup(ext_modules=cythonize([Extension("byte_entropy", ["byte_entropy.pyx"], include_dirs=[str(core)])], language_level=3,
                            include_path=[str(core.parent.parent)]))       # an editable install is on no path of Cython's
