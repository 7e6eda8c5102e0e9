/* What the hub takes from outside of Python: the greenlet package's published C API (the numbers of
 * its capsule greenlet._C_API), a pointer for each thread, and epoll or poll. Each system call
 * returns what it returned, or -errno. */
#ifndef SSF_HUB_H
#define SSF_HUB_H

#include "_sockets/portable.h"

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

/* Whether the current greenlet has context variables of its own. */
static inline int ssf_has_context(void) {
    return PyThreadState_Get()->context != NULL;
}

/* The hub that runs on this thread, or NULL. Whoever sets it owns the reference. A static variable:
 * every other compiled module asks running() of hub.pyx. */
#ifdef _MSC_VER
static __declspec(thread) PyObject *ssf_running;
#else
static __thread PyObject *ssf_running;
#endif

static inline PyObject *ssf_get_running(void) { return ssf_running; }
static inline void ssf_set_running(PyObject *hub) { ssf_running = hub; }

/* The poller. It reports descriptors by edges where the system can; where it cannot, one event for
 * each ssf_want(). Asking for what nobody wants any more costs a turn, and nothing else.
 *
 * `watch` tells apart what one number stood for at different times: epoll goes on reporting a
 * closed descriptor of which another process holds a copy. */
typedef struct { int fd; unsigned watch; short ready; short ended; } ssf_event;

#if defined(__linux__) && !defined(SSF_PORTABLE)

#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SSF_HUB 1
#define SSF_TELLS_APART 1
#define SSF_MOST_EVENTS 256

typedef struct {
    int epoll;
    struct epoll_event events[SSF_MOST_EVENTS];
} ssf_poller;

static inline int ssf_open_poller(ssf_poller *poller) {
    poller->epoll = (int)ssf_result(epoll_create1(EPOLL_CLOEXEC));
    return poller->epoll;
}

static inline void ssf_close_poller(ssf_poller *poller) {
    if (poller->epoll >= 0)
        close(poller->epoll);
    poller->epoll = -1;
}

/* Edge-triggered and for both directions, once for the life of a descriptor. One that is there
 * already was closed behind our back: asking again reports what is ready now. */
static inline int ssf_watch(ssf_poller *poller, int fd, unsigned watch) {
    struct epoll_event event;
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.u64 = (uint64_t)watch << 32 | (unsigned)fd;
    if (epoll_ctl(poller->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
        return 0;
    if (errno == EEXIST && epoll_ctl(poller->epoll, EPOLL_CTL_MOD, fd, &event) == 0)
        return 0;
    return -errno;
}

/* Before the descriptor is closed. Any thread may call this. */
static inline void ssf_unwatch(ssf_poller *poller, int fd) {
    struct epoll_event unused;
    epoll_ctl(poller->epoll, EPOLL_CTL_DEL, fd, &unused);
}

static inline int ssf_want(ssf_poller *poller, int fd, short events) { return 0; }

static inline int ssf_wait_events(ssf_poller *poller, int milliseconds) {
    return (int)ssf_result(
        epoll_wait(poller->epoll, poller->events, SSF_MOST_EVENTS, milliseconds));
}

static inline ssf_event ssf_event_at(const ssf_poller *poller, int index) {
    const struct epoll_event *from = &poller->events[index];
    ssf_event event = {(int)(uint32_t)from->data.u64, (unsigned)(from->data.u64 >> 32), 0, 0};
    if (from->events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        event.ready |= POLLIN;
    if (from->events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        event.ready |= POLLOUT;
    /* The other side sends nothing more: from now on reading never waits, and no edge says so. */
    event.ended = (from->events & (EPOLLRDHUP | EPOLLHUP)) != 0;
    return event;
}

#elif !defined(_WIN32)

#include <stdlib.h>

#define SSF_HUB 1
#define SSF_TELLS_APART 0

/* poll(2): the descriptors that are wanted now, one after the other, and where each stands. */
typedef struct {
    struct pollfd *wanted;
    ssf_event *events; /* what ssf_wait_events() found, room for as many */
    int count, room;
    int *places; /* by descriptor: its place in `wanted` plus one, or 0 */
    int known;
} ssf_poller;

static inline int ssf_open_poller(ssf_poller *poller) {
    memset(poller, 0, sizeof *poller);
    return 0;
}

static inline void ssf_close_poller(ssf_poller *poller) {
    free(poller->wanted);
    free(poller->events);
    free(poller->places);
    memset(poller, 0, sizeof *poller);
}

static inline int ssf_watch(ssf_poller *poller, int fd, unsigned watch) {
    int known = poller->known ? poller->known : 64;
    int *places;
    while (known <= fd)
        known *= 2;
    if (known == poller->known)
        return 0;
    if ((places = realloc(poller->places, known * sizeof *places)) == NULL)
        return -ENOMEM;
    memset(places + poller->known, 0, (known - poller->known) * sizeof *places);
    poller->places = places;
    poller->known = known;
    return 0;
}

/* A number that is still wanted costs a turn. */
static inline void ssf_unwatch(ssf_poller *poller, int fd) {}

static inline int ssf_more_room(ssf_poller *poller) {
    int room = poller->room ? 2 * poller->room : 64;
    struct pollfd *wanted = realloc(poller->wanted, room * sizeof *wanted);
    ssf_event *events = realloc(poller->events, room * sizeof *events);
    if (wanted != NULL)
        poller->wanted = wanted;
    if (events != NULL)
        poller->events = events;
    if (wanted == NULL || events == NULL)
        return -ENOMEM;
    poller->room = room;
    return 0;
}

static inline int ssf_want(ssf_poller *poller, int fd, short events) {
    struct pollfd *wanted;
    if (poller->places[fd] == 0) {
        if (poller->count == poller->room && ssf_more_room(poller) < 0)
            return -ENOMEM;
        wanted = &poller->wanted[poller->count++];
        wanted->fd = fd;
        wanted->events = wanted->revents = 0;
        poller->places[fd] = poller->count;
    }
    poller->wanted[poller->places[fd] - 1].events |= events;
    return 0;
}

/* Take what is ready at this place, and what is wanted no more out of the list. */
static inline void ssf_take_event(ssf_poller *poller, int place, ssf_event *event) {
    struct pollfd *one = &poller->wanted[place], *last;
    event->fd = one->fd;
    event->ended = 0;
    event->watch = 0;
    event->ready = one->revents & (POLLIN | POLLOUT);
    if (one->revents & (POLLERR | POLLHUP | POLLNVAL))
        event->ready = POLLIN | POLLOUT;
    one->events &= ~event->ready;
    if (one->events == 0) {
        last = &poller->wanted[--poller->count];
        poller->places[one->fd] = 0;
        if (last != one) {
            *one = *last;
            poller->places[one->fd] = place + 1;
        }
    }
}

static inline int ssf_wait_events(ssf_poller *poller, int milliseconds) {
    int found = 0, place;
    int ready = ssf_poll(poller->wanted, poller->count, milliseconds);
    if (ready < 0)
        return ready;
    /* From behind, since the last one takes the place of one that is taken out. */
    for (place = poller->count; place-- > 0 && found < ready;)
        if (poller->wanted[place].revents)
            ssf_take_event(poller, place, &poller->events[found++]);
    return found;
}

static inline ssf_event ssf_event_at(const ssf_poller *poller, int index) {
    return poller->events[index];
}

#else

#define SSF_HUB 0
#define SSF_TELLS_APART 0

typedef struct { int none; } ssf_poller;

static inline int ssf_open_poller(ssf_poller *poller) { return -ENOSYS; }
static inline void ssf_close_poller(ssf_poller *poller) {}
static inline int ssf_watch(ssf_poller *poller, int fd, unsigned watch) { return -ENOSYS; }
static inline void ssf_unwatch(ssf_poller *poller, int fd) {}
static inline int ssf_want(ssf_poller *poller, int fd, short events) { return -ENOSYS; }
static inline int ssf_wait_events(ssf_poller *poller, int milliseconds) { return -ENOSYS; }
static inline ssf_event ssf_event_at(const ssf_poller *poller, int index) {
    ssf_event event = {-1, 0, 0, 0};
    return event;
}

#endif

#endif
