"""How modules come and go while connections are under way (reshaping.pyx)."""
from flowos.core.lane cimport fos_lane
from flowos.core.state cimport Core


cdef int reshape(Core core, list serving, fos_lane *lane) except -1
