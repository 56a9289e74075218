"""The port on what the host's stack sends and receives on an interface."""
from flowos.core.tapport cimport TapPort


cdef extern from "hostport.h" nogil:
    enum:
        FOS_TCX_INGRESS
        FOS_TCX_EGRESS

    int fos_lead_frames(int origin, int hook, int to, int as_received)


cdef class HostPort(TapPort):
    cdef readonly str stands_for    # the interface
    cdef list links                 # descriptors of the programs' links
