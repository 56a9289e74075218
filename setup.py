"""Compile FlowOS's native modules; everything else is declared in setup.cfg.

FLOWOS_BUILD picks a profile: release (the default), debug, asan, tsan or coverage; or none, which
compiles nothing and serves an editable install beside a build in place.
CFLAGS of the environment come last, so that whoever packages FlowOS has the final word.
"""
import multiprocessing
import os
import shlex
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# Where each package keeps its sources: package_dir in setup.cfg, said once more.
TREES = {
    "flowos.core": "flowos/core",
    "flowos.decoders": "decoders",
    "flowos.modules": "modules",
    "flowos.services": "flowos/services",
}
CHECKED = ["-fno-omit-frame-pointer", "-UNDEBUG", "-DFLOWOS_DEBUG=1"]
PROFILES = {                        # profile: (compiler flags, linker flags)
    "release": (["-O3", "-g1"], []),
    "debug": (["-O1", "-g3", *CHECKED], []),
    # Lines are all that reports need: with -g3 the compiler takes nearly twice as long.
    "asan": (["-O1", "-g1", *CHECKED, "-fsanitize=address,undefined"],
             ["-fsanitize=address,undefined"]),
    "tsan": (["-O1", "-g1", *CHECKED, "-fsanitize=thread"], ["-fsanitize=thread"]),
    "coverage": (["-O0", "-g3", *CHECKED, "-DCYTHON_TRACE_NOGIL=1"], []),
    "none": ([], []),
}
# Cython's own code leaves helpers and labels unused; everything else of -Wall is ours to heed.
WARNINGS = ["-Wall", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unused-but-set-variable",
            "-Wno-unused-label"]
profile = os.environ.get("FLOWOS_BUILD", "release")
if profile not in PROFILES:
    raise SystemExit(f"FLOWOS_BUILD={profile}: expected one of {', '.join(PROFILES)}")
cflags, ldflags = PROFILES[profile]
checked = profile != "release"
cores = len(os.sched_getaffinity(0))

# Timestamps do not tell that the profile changed, so remember it.
stamp = Path("build/profile")
stale = not stamp.exists() or stamp.read_text() != profile
if profile != "none":
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(profile)

# Workers of cythonize must not run this file again, which is what the other methods do.
multiprocessing.set_start_method("fork", force=True)

extensions = [
    Extension(
        f"{package}.{source.stem}",
        [str(source)],
        # A decoder's own header, decoders/http.h, is its plain-C half, which fuzzers drive.
        include_dirs=["flowos/core", folder, numpy.get_include()],
        depends=[str(header) for tree in {"flowos/core", folder} for header in Path(tree).glob("*.h")],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=["-std=gnu11", *WARNINGS, *cflags,
                            *shlex.split(os.environ.get("CFLAGS", ""))],
        extra_link_args=ldflags,
    )
    for package, folder in TREES.items()
    for source in sorted(Path(folder).glob("*.pyx"))
    if profile != "none"
]

setup(
    options={"build_ext": {"parallel": cores}},
    ext_modules=cythonize(
        extensions,
        nthreads=cores,
        # coverage.py's Cython plug-in wants the C files beside their sources.
        build_dir=None if profile == "coverage" else "build/cython",
        force=stale,
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "wraparound": False,        # these two change what code means,
            "cdivision": True,          # so they never vary with the profile
            "boundscheck": checked,
            "initializedcheck": checked,
            # nonecheck stays off: to raise takes the GIL, and the hot path does not hold it
            "linetrace": profile == "coverage",
        },
    ),
)
