# cython: language_level=3, freethreading_compatible=True
"""Reads, sends and waits: the only module that blocks.

A system call is tried first without waiting and with the GIL held: each release of the GIL in a
threaded server is a hand-off to another thread, and the hand-offs are what such a server costs
(bench: threading_keep_10, threading_keep_100). Only a call that would block, or that moves
more than 64 KiB, lets the other threads run.

A cooperative socket (socketserver_fast.green) is tried the same way, and then parks its greenlet by
a function that the hub has registered here. Nothing else in this room knows of greenlets.

The descriptor is taken from the socket object before every call: a socket that was closed or
detached meanwhile gives -1 and so EBADF, not somebody else's connection.
"""

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.limits cimport INT_MAX

from socketserver_fast._sockets.plain cimport descriptor, let_park, parks, plain, timeout_of

cdef extern from "_sockets/portable.h" nogil:
    const int MSG_DONTWAIT
    const int MSG_PEEK
    int ssf_accept(int fd, ssf_packet *peer, bint blocking)
    int ssf_accept_now(int fd, ssf_packet *peer)
    Py_ssize_t ssf_recv(int fd, char *data, size_t size, int flags)
    Py_ssize_t ssf_send(int fd, const char *data, size_t size, int flags)

cdef extern from *:
    """
    /* `state` is odd while the thread waits, with a new number for each wait. It is SSF_LONG if the
     * pool has found the wait to be long and lets another thread work meanwhile. A read of several
     * parts is one wait then: from the end of a long wait to its own end `reading` is SSF_OWED.
     * A wait within a wait, by a callback of OpenSSL, is a part of that: `depth` counts them. */
    #if SSF_NATIVE
    #define SSF_LONG -1
    enum { SSF_PART = 1, SSF_OWED };
    static __thread ssf_waits *ssf_mine;

    static inline void ssf_show(ssf_waits *mine) { ssf_mine = mine; }

    static inline void ssf_begin_wait(void) {
        if (ssf_mine == NULL || ssf_mine->depth++ > 0 || ssf_mine->reading == SSF_OWED)
            return;
        ssf_mine->turn = (ssf_mine->turn + 2) & 0xffffff;
        __atomic_store_n(&ssf_mine->state, ssf_mine->turn | 1, __ATOMIC_RELEASE);
    }

    /* Returns the thread's own, if its wait was found to be long and it has to resume now. */
    static inline ssf_waits *ssf_end_wait(void) {
        if (ssf_mine == NULL || --ssf_mine->depth > 0 || ssf_mine->reading == SSF_OWED)
            return NULL;
        int was_long = __atomic_exchange_n(&ssf_mine->state, 0, __ATOMIC_ACQ_REL) == SSF_LONG;
        if (ssf_mine->reading == 0)
            return was_long || ssf_mine->due ? ssf_mine : NULL;
        if (was_long)
            ssf_mine->reading = SSF_OWED;
        return NULL;
    }

    static inline void ssf_begin_read(void) {
        if (ssf_mine != NULL && ssf_mine->reading == 0)
            ssf_mine->reading = SSF_PART;
    }

    static inline ssf_waits *ssf_end_read(void) {
        if (ssf_mine == NULL)
            return NULL;
        int was = ssf_mine->reading;
        ssf_mine->reading = 0;
        return was == SSF_OWED || ssf_mine->due ? ssf_mine : NULL;
    }

    /* Returns whether it is in the same wait as at the last call; then that is a long one. */
    static inline int ssf_has_waited(ssf_waits *one) {
        int state = __atomic_load_n(&one->state, __ATOMIC_ACQUIRE), seen = one->seen;
        one->seen = state;
        return (state & 1) && state == seen
            && __atomic_compare_exchange_n(&one->state, &state, SSF_LONG, 0, __ATOMIC_ACQ_REL,
                                           __ATOMIC_ACQUIRE);
    }
    #else
    static inline void ssf_show(ssf_waits *mine) {}
    static inline void ssf_begin_wait(void) {}
    static inline ssf_waits *ssf_end_wait(void) { return NULL; }
    static inline int ssf_has_waited(ssf_waits *one) { return 0; }
    static inline void ssf_begin_read(void) {}
    static inline ssf_waits *ssf_end_read(void) { return NULL; }
    #endif
    """
    void ssf_show(ssf_waits *mine)
    void ssf_begin_wait() nogil
    ssf_waits *ssf_end_wait()
    int ssf_has_waited(ssf_waits *one)
    void ssf_begin_read()
    ssf_waits *ssf_end_read()

# How cooperative sockets park; NULL before socketserver_fast.green is imported.
cdef Parker parker = NULL
cdef int (*yielder)() except -1
cdef Accepter accepter = NULL

native = bool(SSF_NATIVE)

cdef enum:
    LARGEST_WITH_GIL = 65535    # more are sent in one call that waits, and lets other threads run

# In seconds: the most that the time types of CPython can hold.
cdef double LONGEST_TIME = 2**63 / 1e9
# In nanoseconds: 146 years, so that the clock can be added.
cdef double LONGEST_WAIT = 2**62


cdef int use_parking(object kind, Parker park, int (*pass_turn)() except -1,
                     Accepter accept) except -1:
    """Make sockets of the class `kind` wait and accept by these functions."""
    global parker, yielder, accepter
    let_park(kind)
    parker = park
    yielder = pass_turn
    accepter = accept
    return 0


cdef object accept_parked(object listener):
    """Accept from a cooperative listener; see Accepter."""
    return accepter(listener)


cdef int park(object sock, short events, long long *deadline) except -1:
    """Wait for a cooperative socket; see Parker."""
    return parker(sock, events, deadline)


cdef int spend() except -1:
    """Count an operation that did not wait; after ALLOWANCE of them let other greenlets run."""
    global allowance
    allowance -= 1
    return 0 if allowance > 0 else yielder()


cdef int show_waits(ssf_waits *mine) except -1:
    """Show the waits of this thread there; NULL ends that."""
    ssf_show(mine)
    return 0


cdef bint has_waited(ssf_waits *one) noexcept:
    """Return whether a thread is in the same wait as at the last call. Then it resumes after it."""
    return ssf_has_waited(one)


cdef void begin_wait() noexcept nogil:
    """Show that this thread waits for its client; wait() and what receives and sends do so, too."""
    ssf_begin_wait()


cdef int end_wait() except -1:
    """End that wait. The caller has the GIL."""
    cdef ssf_waits *mine = ssf_end_wait()
    return 0 if mine == NULL else mine.resume(mine.owner)


cdef void begin_read() noexcept:
    """Begin a read that may need several parts.

    It counts as one wait, so that a client that sends byte by byte takes one turn of a pool, not
    one for each of them.
    """
    ssf_begin_read()


cdef int end_read() except -1:
    """End it. If one of its waits was long, or the thread's turn is over, it resumes here."""
    cdef ssf_waits *mine = ssf_end_read()
    return 0 if mine == NULL else mine.resume(mine.owner)


def read_in_parts(function, *arguments):
    """Call a function that reads in several parts, as between begin_read() and end_read()."""
    begin_read()
    try:
        return function(*arguments)
    finally:
        end_read()


cdef int fail(Py_ssize_t error) except -1:
    """Raise the OSError of a system call that returned -errno."""
    (&errno)[0] = <int>-error
    PyErr_SetFromErrno(OSError)
    return -1


cdef long long nanoseconds(seconds) except? -2:
    """Convert a time in seconds for wait(): None is no limit, 0 and less is no wait.

    Raises as the stdlib: ValueError for NaN, OverflowError for 292 years and more, TypeError for
    anything but a number.
    """
    cdef double value
    if seconds is None:
        return -1
    value = seconds
    if value != value:
        raise ValueError("a time must be a number of seconds, not NaN")
    if value > LONGEST_TIME:
        raise OverflowError(f"{seconds} seconds are too long a time")
    return <long long>min(max(value, 0) * 1e9, LONGEST_WAIT)


def check_time(seconds):
    """Raise an error for what is no time in seconds, see nanoseconds(). None is no limit."""
    nanoseconds(seconds)


def milliseconds(seconds):
    """Convert a time in seconds for poll(2): None is no limit. Raises as nanoseconds()."""
    cdef long long time = nanoseconds(seconds)
    return None if time < 0 else rounded_up(time)


cdef inline int rounded_up(long long nanoseconds) noexcept:
    """Convert to milliseconds, at most 24 days, rounded up: waking early would be a wasted turn."""
    return <int>min((nanoseconds + 999999) // 1000000, INT_MAX)


cdef int wait(ssf_pollfd *fds, int count, long long nanoseconds) except -1:
    """Let other threads run until a descriptor is ready. Returns how many are, 0 after the time.

    Negative `nanoseconds` wait without end. Signal handlers run, and may raise.
    """
    cdef long long deadline = ssf_monotonic() + nanoseconds
    cdef long long left = nanoseconds
    cdef int milliseconds, ready
    while True:
        milliseconds = -1 if nanoseconds < 0 else rounded_up(left)
        with nogil:
            ssf_begin_wait()
            ready = ssf_poll(fds, count, milliseconds)
        end_wait()
        PyErr_CheckSignals()
        if ready > 0 or ready == 0 and milliseconds < INT_MAX:
            return ready
        if ready < 0 and ready != -EINTR:
            fail(ready)
        left = max(deadline - ssf_monotonic(), 0)


cdef bint is_ready(int fd, short events):
    """Return whether a descriptor is ready now. Never waits."""
    cdef ssf_pollfd fds
    fds.fd = fd
    fds.events = events
    return ssf_poll(&fds, 1, 0) > 0


def wait_for_data(sock, seconds):
    """Wait until a socket has something to read, or an end; false if that takes too long.

    For what reads by the methods of a socket, so that its wait shows. It is left to those methods
    where they park, and where sockets are not plain.
    """
    if not plain(sock) or parks(sock):
        return True
    return wait_for(sock, POLLIN, ssf_monotonic() + nanoseconds(seconds))


cdef bint wait_for(object sock, short events, long long deadline) except -1:
    """Wait until `sock` is ready for `events`; false if the deadline, unless -1, passes first."""
    cdef ssf_pollfd fds
    fds.fd = descriptor(sock)
    fds.events = events
    return wait(&fds, 1, -1 if deadline < 0 else max(deadline - ssf_monotonic(), 0)) > 0


cdef long long deadline_of(seconds) except? -2:
    """Convert a timeout in seconds to a time of ssf_monotonic(); -1 without one."""
    return -1 if seconds is None else ssf_monotonic() + nanoseconds(seconds)


cdef int accept_now_or_wait(int fd, ssf_packet *peer, bint waits) noexcept:
    """Accept from a listener that blocks, waiting only if `waits`. Returns a descriptor or -errno.
    """
    cdef int accepted
    with nogil:
        accepted = ssf_accept(fd, peer, True) if waits else ssf_accept_now(fd, peer)
    return accepted


cdef Py_ssize_t receive_now(object sock, char *data, Py_ssize_t size) except -2:
    """Receive without waiting. Returns how many bytes, 0 at the end, or WOULD_BLOCK.

    Before it returns WOULD_BLOCK a signal handler may run, and free `data`.
    """
    return received(ssf_recv(descriptor(sock), data, size, MSG_DONTWAIT))


cdef Py_ssize_t peek_now(object sock, char *data) except -2:
    """Look at the next byte without waiting. Returns as receive_now()."""
    return received(ssf_recv(descriptor(sock), data, 1, MSG_DONTWAIT | MSG_PEEK))


cdef inline Py_ssize_t received(Py_ssize_t got) except -2:
    if got >= 0:
        return got
    if got == -EINTR:
        PyErr_CheckSignals()
    elif got != -EAGAIN:
        fail(got)
    return WOULD_BLOCK


cdef Py_ssize_t receive_waiting(object sock, char *data, Py_ssize_t size) except -2:
    """Receive, waiting as long as the socket's timeout allows; WOULD_BLOCK if that is 0.

    Other threads run meanwhile, so `data` must be memory that only the caller uses.
    """
    if parks(sock):
        return receive_parked(sock, data, size)
    cdef object seconds = timeout_of(sock)
    cdef Py_ssize_t got
    cdef long long deadline
    cdef int fd
    if seconds is not None:
        deadline = ssf_monotonic() + nanoseconds(seconds)
        while True:
            got = receive_now(sock, data, size)
            if got != WOULD_BLOCK or seconds == 0:
                return got
            if not wait_for(sock, POLLIN, deadline):
                raise TimeoutError("timed out")
    while True:
        fd = descriptor(sock)
        with nogil:
            ssf_begin_wait()
            got = ssf_recv(fd, data, size, 0)
        end_wait()
        if got >= 0:
            return got
        if got == -EAGAIN:  # SO_RCVTIMEO is over, or somebody set O_NONBLOCK by hand
            return WOULD_BLOCK
        if got != -EINTR:
            fail(got)
        PyErr_CheckSignals()


cdef Py_ssize_t receive_parked(object sock, char *data, Py_ssize_t size) except -2:
    """receive_waiting() from a cooperative socket that has nothing now."""
    cdef long long deadline = UNSET
    cdef Py_ssize_t got = WOULD_BLOCK
    cdef int ready
    while got == WOULD_BLOCK:
        ready = park(sock, POLLIN, &deadline)
        if ready == NO_WAITING:
            return WOULD_BLOCK
        if ready == 0:
            raise TimeoutError("timed out")
        got = receive_now(sock, data, size)
    return got


cdef int send_all(object sock, const char *data, Py_ssize_t size) except -1:
    """Send all of `data`; the socket's timeout counts for the whole of it."""
    cdef Py_ssize_t sent = 0
    if size <= LARGEST_WITH_GIL:
        sent = ssf_send(descriptor(sock), data, size, MSG_DONTWAIT)
        if sent == size:
            return spend() if parks(sock) else 0
        if sent < 0:
            if sent != -EINTR and sent != -EAGAIN:
                fail(sent)
            sent = 0
    if parks(sock):
        return send_parking(sock, data + sent, size - sent)
    return send_waiting(sock, data + sent, size - sent)


cdef int send_parking(object sock, const char *data, Py_ssize_t size) except -1:
    """Send all of `data`, parking the greenlet while there is no room for it."""
    cdef long long deadline = UNSET
    cdef Py_ssize_t sent
    cdef int ready = 1
    while size > 0:
        sent = ssf_send(descriptor(sock), data, size, MSG_DONTWAIT)
        if sent >= 0:
            data += sent
            size -= sent
        elif sent == -EAGAIN:
            ready = park(sock, POLLOUT, &deadline)
            if ready == 0:
                raise TimeoutError("timed out")
            if ready == NO_WAITING:
                fail(sent)
        elif sent == -EINTR:
            PyErr_CheckSignals()
        else:
            fail(sent)
    return spend()


cdef int send_waiting(object sock, const char *data, Py_ssize_t size) except -1:
    """Send all of `data` while other threads run."""
    cdef object seconds = timeout_of(sock)
    cdef long long deadline = 0
    cdef int flags = 0, fd
    cdef Py_ssize_t sent
    if seconds is not None:
        deadline = ssf_monotonic() + nanoseconds(seconds)
        flags = MSG_DONTWAIT
    while True:
        fd = descriptor(sock)
        with nogil:
            ssf_begin_wait()
            sent = ssf_send(fd, data, size, flags)
        end_wait()
        PyErr_CheckSignals()
        if sent >= 0:
            data += sent
            size -= sent
            if size == 0:
                return 0
        elif sent == -EAGAIN:
            if seconds is None or seconds == 0:
                fail(sent)
            if not wait_for(sock, POLLOUT, deadline):
                raise TimeoutError("timed out")
        elif sent != -EINTR:
            fail(sent)
