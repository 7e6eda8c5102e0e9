"""The workers of a pool: started, idle, woken; which of them may run; what they are handed."""

from socketserver_fast._sockets.wait cimport ssf_waits

cdef tuple trace_and_profile(tuple present)

# The threads. `lock` guards everything here and in the classes that extend it.
cdef class Workers:
    cdef readonly object lock
    cdef readonly list workers, closing
    cdef object changed, make_worker
    cdef list idle
    cdef int generation, number, watched

    cpdef reset(self)
    cpdef int tell(self) except -1
    cpdef int await_change(self, seconds=*) except -1
    cdef object hire(self, server)
    cpdef dismiss(self, worker)
    cdef int wake_one(self) except -1
    cdef bint sleep(self, worker, seconds) except -1

# The turn of one worker.
cdef class Turn:
    cdef ssf_waits waits
    cdef Turns pool
    cdef object server, worker
    cdef double since           # when it asked to get it back, less its head start

    cdef int resume(self) except -1

# Which of the threads may run.
cdef class Turns(Workers):
    cdef readonly bint serving  # serve_forever() runs: idle workers stay
    cdef set running
    cdef object defaults, returning, pending, stalled
    cdef readonly object poll_interval
    cdef readonly bint accepting  # the workers take requests from the listener
    cdef bint leading           # one of them waits for it
    cdef bint coming            # one was woken or started for that
    cdef int waiting_end, waking_end  # of the pipe that interrupts the leader
    cdef bint attentive         # the serving thread looks after each moment whether a turn is free
    cdef double full            # when nobody could wait for the listener
    cdef int lent, extra
    cdef object descriptors     # connections that the limit of descriptors allows
    cdef Py_ssize_t limit
    cdef double queued, looked, moved
    cdef long progress          # changes when a request ends, or a wait for a client
    cdef long progress_before
    cdef int brief              # how many looks more come soon one after the other
    cdef set reported

    # The settings, and whether one more may run or be there.
    cdef object setting(self, server, str name)
    cdef object most(self, server)
    cdef int set_limit(self, server) except -1
    cdef bint free(self, server) except -1
    cdef bint may_hire(self, server) except -1
    cdef bint has_room(self, server) except -1
    # A turn ends, and another begins.
    cdef int end_turn(self, server, Turn turn) except -1
    cdef int let_return(self, server) except -1
    cdef bint new_first(self, server, double since) except -1
    cdef bint give_way(self, Turn turn) except -1
    # Who waits for its client, and what is stuck.
    cdef int look(self, server, bint wanted) except -1
    cdef double moment(self) except -1
    cdef bint lend_turns(self, bint wanted) except -1
    cdef int lend(self, Turn turn) except -1
    cdef int notice_stall(self, server, double now) except -1
    cdef int report(self, server) except -1
    # The leader and the serving thread.
    cdef object rouse(self, server)
    cdef int interrupt(self) except -1
    cdef object be_attentive(self, server)
    cdef int call_idle_worker(self, server) except -1
    cpdef bint can_serve(self, server) except -1
    cdef bint has_turn(self, server) except -1
    cdef int note_queued(self, bint queued) except -1
    cpdef bint hand_over(self, server, item) except -1
    cdef bint withdraw(self, server, item) except -1
