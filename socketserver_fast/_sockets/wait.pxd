"""Reads, sends and waits: the only module that blocks."""

cdef extern from "_sockets/portable.h" nogil:
    const int SSF_NATIVE
    const int POLLIN
    const int POLLOUT
    const int POLLNVAL
    ctypedef struct ssf_pollfd:
        int fd
        short events
        short revents
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        unsigned short ss_family
    ctypedef struct ssf_packet:
        char *data
        Py_ssize_t length
        int flags
        sockaddr_storage address
        unsigned int address_length
    int ssf_poll(ssf_pollfd *fds, int count, int milliseconds)
    long long ssf_monotonic()

# Shows whether a thread waits for its client: written by that thread, read by others of its pool.
cdef extern from *:
    """
    #ifndef SSF_WAITS
    #define SSF_WAITS
    typedef struct {
        int state, turn, seen, reading, due, depth;
        void *owner;
        int (*resume)(void *);
    } ssf_waits;
    #endif
    """
    ctypedef struct ssf_waits:
        int seen        # odd: it waited when has_waited() was called last
        int due         # set by another thread: resume() is called after the next wait, long or not
        void *owner
        int (*resume)(void *owner) except -1    # called by the thread after a long wait

cdef enum:
    WOULD_BLOCK = -1

# Waits for a cooperative socket. Returns 1 if it may be ready, 0 after its timeout, NO_WAITING if
# that is 0, or after SO_RCVTIMEO or SO_SNDTIMEO. `deadline` is UNSET at an operation's first wait,
# which sets it.
ctypedef int (*Parker)(object sock, short events, long long *deadline) except -1

# Accepts from a cooperative listener in a thread with a hub; None in others.
ctypedef object (*Accepter)(object listener)

cdef enum:
    UNSET = -2
    NO_WAITING = -2
    ALLOWANCE = 64          # operations without a wait before a greenlet lets others run

cdef int allowance
cdef int use_parking(object kind, Parker parker, int (*pass_turn)() except -1,
                     Accepter accepter) except -1
cdef object accept_parked(object listener)
cdef int park(object sock, short events, long long *deadline) except -1
cdef int spend() except -1

cdef void begin_wait() noexcept nogil
cdef int end_wait() except -1
cdef void begin_read() noexcept
cdef int end_read() except -1
cdef int show_waits(ssf_waits *mine) except -1
cdef bint has_waited(ssf_waits *one) noexcept

cdef int fail(Py_ssize_t error) except -1
cdef long long nanoseconds(seconds) except? -2
cdef int wait(ssf_pollfd *fds, int count, long long nanoseconds) except -1
cdef bint is_ready(int fd, short events)
cdef bint wait_for(object sock, short events, long long deadline) except -1
cdef long long deadline_of(seconds) except? -2

cdef int accept_now_or_wait(int fd, ssf_packet *peer, bint waits) noexcept
cdef Py_ssize_t receive_now(object sock, char *data, Py_ssize_t size) except -2
cdef Py_ssize_t peek_now(object sock, char *data) except -2
cdef Py_ssize_t receive_waiting(object sock, char *data, Py_ssize_t size) except -2
cdef Py_ssize_t receive_parked(object sock, char *data, Py_ssize_t size) except -2
cdef int send_all(object sock, const char *data, Py_ssize_t size) except -1


cdef inline Py_ssize_t count(object size) except? -2:
    """Convert a size argument as the io classes do: an integer, or None for no limit."""
    return -1 if size is None else size
