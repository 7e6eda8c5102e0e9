# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""What has to happen by when: a heap in which every deadline knows its place, since most leave it
early (bench: green_keep_100 with a handler's `timeout`)."""

cimport cython


@cython.final
@cython.freelist(256)
cdef class Deadline:
    """A time, and whom it concerns."""


@cython.final
cdef class Deadlines:
    """The deadlines of one hub, each added and removed in O(log n)."""

    def __cinit__(self):
        self.heap = []

    def __len__(self):
        return len(self.heap)

    cdef Deadline first(self):
        """The earliest one; there has to be one."""
        return <Deadline>self.heap[0]

    cdef Deadline add(self, long long time, object owner):
        cdef Deadline deadline = Deadline.__new__(Deadline)
        deadline.time = time
        deadline.owner = owner
        self.heap.append(deadline)
        self.rise(deadline, len(self.heap) - 1)
        return deadline

    cdef int remove(self, Deadline deadline) except -1:
        """Forget a deadline, if it is not forgotten already."""
        cdef Py_ssize_t place = deadline.place
        cdef Deadline last
        if place < 0:
            return 0
        deadline.place = -1
        deadline.owner = None
        last = <Deadline>self.heap.pop()
        if last is deadline:
            return 0
        if place > 0 and (<Deadline>self.heap[(place - 1) // 2]).time > last.time:
            return self.rise(last, place)
        return self.sink(last, place)

    cdef int rise(self, Deadline deadline, Py_ssize_t place) except -1:
        cdef Deadline above
        while place > 0:
            above = <Deadline>self.heap[(place - 1) // 2]
            if above.time <= deadline.time:
                break
            self.heap[place] = above
            above.place = place
            place = (place - 1) // 2
        self.heap[place] = deadline
        deadline.place = place
        return 0

    cdef int sink(self, Deadline deadline, Py_ssize_t place) except -1:
        cdef Py_ssize_t below, count = len(self.heap)
        cdef Deadline smaller
        while 2 * place + 1 < count:
            below = 2 * place + 1
            smaller = <Deadline>self.heap[below]
            if below + 1 < count and (<Deadline>self.heap[below + 1]).time < smaller.time:
                below += 1
                smaller = <Deadline>self.heap[below]
            if deadline.time <= smaller.time:
                break
            self.heap[place] = smaller
            smaller.place = place
            place = below
        self.heap[place] = deadline
        deadline.place = place
        return 0
