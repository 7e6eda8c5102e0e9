#include "poller.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__) && !defined(BENCH_POLL)

#include <sys/epoll.h>
#include <unistd.h>

struct poller {
    int epoll;
};

struct poller *poller_new(int descriptors)
{
    struct poller *poller = malloc(sizeof *poller);
    (void)descriptors;
    if (!poller || (poller->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        return NULL;
    return poller;
}

static int control(struct poller *poller, int what, int fd, void *owner, bool want_write)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = owner}};
    if (want_write)
        event.events |= EPOLLOUT;
    return epoll_ctl(poller->epoll, what, fd, &event);
}

int poller_add(struct poller *poller, int fd, void *owner, bool want_write)
{
    return control(poller, EPOLL_CTL_ADD, fd, owner, want_write);
}

int poller_change(struct poller *poller, int fd, void *owner, bool want_write)
{
    return control(poller, EPOLL_CTL_MOD, fd, owner, want_write);
}

/* Closing the descriptor takes it out of the epoll set: one syscall less per connection. */
int poller_remove(struct poller *poller, int fd)
{
    (void)poller, (void)fd;
    return 0;
}

int poller_wait(struct poller *poller, struct event *events, int room, int milliseconds)
{
    struct epoll_event ready[256];
    int count = epoll_wait(poller->epoll, ready, room < 256 ? room : 256, milliseconds);
    for (int i = 0; i < count; i++) {
        events[i].owner = ready[i].data.ptr;
        events[i].readable = ready[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP);
        events[i].writable = ready[i].events & EPOLLOUT;
    }
    return count < 0 && errno == EINTR ? 0 : count;
}

#else

#include <poll.h>

struct poller {
    struct pollfd *polled;
    void **owners;
    int used, room;
};

struct poller *poller_new(int descriptors)
{
    struct poller *poller = calloc(1, sizeof *poller);
    if (!poller)
        return NULL;
    poller->room = descriptors;
    poller->polled = calloc((size_t)descriptors, sizeof *poller->polled);
    poller->owners = calloc((size_t)descriptors, sizeof *poller->owners);
    return poller->polled && poller->owners ? poller : NULL;
}

static int find(struct poller *poller, int fd)
{
    for (int i = 0; i < poller->used; i++)
        if (poller->polled[i].fd == fd)
            return i;
    errno = ENOENT;
    return -1;
}

int poller_add(struct poller *poller, int fd, void *owner, bool want_write)
{
    if (poller->used == poller->room) {
        errno = ENOSPC;
        return -1;
    }
    poller->polled[poller->used].fd = fd;
    poller->owners[poller->used++] = owner;
    return poller_change(poller, fd, owner, want_write);
}

int poller_change(struct poller *poller, int fd, void *owner, bool want_write)
{
    int at = find(poller, fd);
    if (at < 0)
        return -1;
    poller->owners[at] = owner;
    poller->polled[at].events = want_write ? POLLIN | POLLOUT : POLLIN;
    return 0;
}

int poller_remove(struct poller *poller, int fd)
{
    int at = find(poller, fd);
    if (at < 0)
        return -1;
    poller->used--;
    poller->polled[at] = poller->polled[poller->used];
    poller->owners[at] = poller->owners[poller->used];
    return 0;
}

int poller_wait(struct poller *poller, struct event *events, int room, int milliseconds)
{
    int ready = poll(poller->polled, (nfds_t)poller->used, milliseconds), count = 0;
    if (ready < 0)
        return errno == EINTR ? 0 : -1;
    for (int i = 0; i < poller->used && count < room && ready; i++) {
        short got = poller->polled[i].revents;
        if (!got)
            continue;
        events[count].owner = poller->owners[i];
        events[count].readable = got & (POLLIN | POLLERR | POLLHUP | POLLNVAL);
        events[count++].writable = got & POLLOUT;
    }
    return count;
}

#endif
