/* What the hub takes from outside of Python: the greenlet package's published C API (the numbers of
 * its capsule greenlet._C_API), a pointer for each thread, and epoll. Each system call returns what
 * it returned, or -errno. */
#ifndef SSF_HUB_H
#define SSF_HUB_H

#include "_portable.h"

static void **ssf_greenlet;

static inline int ssf_import_greenlet(void) {
    ssf_greenlet = (void **)PyCapsule_Import("greenlet._C_API", 0);
    return ssf_greenlet == NULL ? -1 : 0;
}

#define ssf_new_greenlet ((PyObject *(*)(PyObject *, PyObject *))ssf_greenlet[3])
#define ssf_current_greenlet ((PyObject *(*)(void))ssf_greenlet[4])
#define ssf_throw \
    ((PyObject *(*)(PyObject *, PyObject *, PyObject *, PyObject *))ssf_greenlet[5])
#define ssf_switch ((PyObject *(*)(PyObject *, PyObject *, PyObject *))ssf_greenlet[6])
#define ssf_is_active ((int (*)(PyObject *))ssf_greenlet[10])

/* The hub that runs on this thread, or NULL. Whoever sets it owns the reference. */
#ifdef _MSC_VER
static __declspec(thread) PyObject *ssf_running;
#else
static __thread PyObject *ssf_running;
#endif

static inline PyObject *ssf_get_running(void) { return ssf_running; }
static inline void ssf_set_running(PyObject *hub) { ssf_running = hub; }

/* CPython keeps the frames of Python functions in chunks of 16 KiB that it maps, one at least for each
 * greenlet: a page of memory and three system calls for each connection. So a greenlet begins with
 * a small chunk from the heap, enough for a handler that waits for its next line, and one large
 * chunk per thread is kept for the calls that need more. (The fields are public; what is done with
 * them is the business of _PyThreadState_PushFrame, the same from 3.11 to 3.15.) */
#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x03100000 && !defined(Py_GIL_DISABLED) \
    && !defined(_MSC_VER)

#define SSF_CHUNK 1520
#define SSF_LARGE_CHUNK (16 * 1024)

static PyObjectArenaAllocator ssf_arenas;
static __thread void *ssf_kept;

static void *ssf_allocate_arena(void *context, size_t size) {
    void *kept = ssf_kept;
    if (size != SSF_LARGE_CHUNK || kept == NULL)
        return ssf_arenas.alloc(ssf_arenas.ctx, size);
    ssf_kept = NULL;
    return kept;
}

static void ssf_free_arena(void *context, void *arena, size_t size) {
    if (size == SSF_LARGE_CHUNK && ssf_kept == NULL && ssf_running != NULL)
        ssf_kept = arena;
    else
        ssf_arenas.free(ssf_arenas.ctx, arena, size);
}

static inline void ssf_keep_chunks(void) {
    PyObjectArenaAllocator allocator = {NULL, ssf_allocate_arena, ssf_free_arena};
    PyObject_GetArenaAllocator(&ssf_arenas);
    PyObject_SetArenaAllocator(&allocator);
}

static inline void ssf_drop_chunks(void) {
    if (ssf_kept != NULL)
        ssf_arenas.free(ssf_arenas.ctx, ssf_kept, SSF_LARGE_CHUNK);
    ssf_kept = NULL;
}

static inline void *ssf_begin_frames(void) {
    PyThreadState *state = PyThreadState_Get();
    _PyStackChunk *chunk;
    if (state->datastack_chunk != NULL || (chunk = PyMem_RawMalloc(SSF_CHUNK)) == NULL)
        return NULL;
    chunk->previous = NULL;
    chunk->size = SSF_CHUNK;
    chunk->top = 0;
    state->datastack_chunk = chunk;
    state->datastack_top = &chunk->data[1];  /* so that it is never taken for an empty chunk */
    state->datastack_limit = (PyObject **)((char *)chunk + SSF_CHUNK);
    return chunk;
}

static inline void ssf_end_frames(void *chunk) {
    PyThreadState *state = PyThreadState_Get();
    if (chunk == NULL || state->datastack_chunk != chunk)
        return;
    state->datastack_chunk = NULL;
    state->datastack_top = state->datastack_limit = NULL;
    PyMem_RawFree(chunk);
}

#else

static inline void ssf_keep_chunks(void) {}
static inline void ssf_drop_chunks(void) {}
static inline void *ssf_begin_frames(void) { return NULL; }
static inline void ssf_end_frames(void *chunk) {}

#endif

#if SSF_NATIVE && defined(__linux__)

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SSF_HUB 1

typedef struct epoll_event ssf_event;

static inline int ssf_open_poller(void) {
    return (int)ssf_result(epoll_create1(EPOLL_CLOEXEC));
}

static inline void ssf_close_poller(int poller) { close(poller); }

/* Edge-triggered and for both directions, once for the life of a descriptor. One that is there
 * already belonged to a socket object that gave it away: asking again reports what is ready now. */
static inline int ssf_watch(int poller, int fd) {
    struct epoll_event event;
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.fd = fd;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0)
        return 0;
    if (errno == EEXIST && epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event) == 0)
        return 0;
    return -errno;
}

static inline int ssf_wait_events(int poller, ssf_event *events, int most, int milliseconds) {
    return (int)ssf_result(epoll_wait(poller, events, most, milliseconds));
}

static inline int ssf_event_fd(const ssf_event *event) { return event->data.fd; }

static inline short ssf_event_ready(const ssf_event *event) {
    short ready = 0;
    if (event->events & (EPOLLERR | EPOLLHUP))
        return POLLIN | POLLOUT;
    if (event->events & EPOLLIN)
        ready |= POLLIN;
    if (event->events & EPOLLOUT)
        ready |= POLLOUT;
    return ready;
}

/* The other side sends nothing more: from now on reading never waits, and no edge says so again. */
static inline int ssf_event_ended(const ssf_event *event) {
    return (event->events & (EPOLLRDHUP | EPOLLHUP)) != 0;
}

#else

#define SSF_HUB 0

typedef struct { int fd; short ready; } ssf_event;

static inline int ssf_open_poller(void) { return -ENOSYS; }
static inline void ssf_close_poller(int poller) {}
static inline int ssf_watch(int poller, int fd) { return -ENOSYS; }
static inline int ssf_wait_events(int p, ssf_event *e, int most, int ms) { return -ENOSYS; }
static inline int ssf_event_fd(const ssf_event *event) { return event->fd; }
static inline short ssf_event_ready(const ssf_event *event) { return event->ready; }
static inline int ssf_event_ended(const ssf_event *event) { return 0; }

#endif
#endif
