# cython: language_level=3, freethreading_compatible=True
"""How many requests have ended in this process, how, and after how many seconds.

Hot is handle(), once for each request of a server with a StatisticsMixIn, which costs 3,600
instructions with all that is around it; with two times and a deque in Python it was 8,900.
"""

import math

cimport cython

from socketserver_fast._sockets.wait cimport ssf_monotonic

from socketserver_fast._serving import ending

cdef enum:
    MOST_BOUNDS = 15
    OUTCOMES = 3
    SIZE = OUTCOMES + 1 + MOST_BOUNDS

# Seconds: the upper ends of the histogram's classes.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
          math.inf)
cdef double bounds[MOST_BOUNDS]
bounds = BOUNDS


@cython.final
cdef class Figures:
    """Sums that any thread may add to: finished, failed, disconnected, the seconds, the classes."""

    cdef double sums[SIZE]
    cdef readonly int count  # requests since take()

    def handle(self, function, request, client_address):
        """function(request, client_address), timed and counted."""
        cdef long long started = ssf_monotonic()
        try:
            function(request, client_address)
        except BaseException as error:
            self.note((ssf_monotonic() - started) / 1e9,
                      2 if isinstance(error, ending.DISCONNECTS) else 1)
            raise
        self.note((ssf_monotonic() - started) / 1e9, 0)

    @cython.critical_section
    cpdef note(self, double seconds, int outcome):
        """Add one request: 0 finished, 1 failed, 2 disconnected."""
        cdef int place = 0
        while seconds > bounds[place]:
            place += 1
        self.sums[outcome] += 1
        self.sums[OUTCOMES] += seconds
        self.sums[OUTCOMES + 1 + place] += 1
        self.count += 1

    @cython.critical_section
    def take(self):
        """The sums since the last take(), as a list."""
        cdef int place
        taken = [self.sums[place] for place in range(SIZE)]
        for place in range(SIZE):
            self.sums[place] = 0
        self.count = 0
        return taken
