"""What the kernel has queued for a listener."""

cdef enum:
    QUEUED_AT_MOST = 65536  # the longest queue that Linux makes of a listen()

cdef bint ready(server, int milliseconds=*) except -1
cdef bint take_queued(server, list queued) except -1
