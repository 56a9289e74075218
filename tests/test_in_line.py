"""In line between two ports: `run` waits, stops and ends; attachments come and go; what waits is bounded.

The kernel's TCP judges what becomes of connections (test_kernel_tcp.py); here pipes in memory and
packets made by hand ask for what it never does.
"""
import threading
import time

import pytest
from editscript import Edit, Scripted, edited
from follow import frames_of

from flowos import RDWR, Config, Engine, Module
from flowos.core.pipe import pipe
from flowos.core.repack import rebuild
