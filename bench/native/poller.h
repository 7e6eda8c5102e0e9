/* Readiness of many descriptors: epoll on Linux, poll elsewhere or with -DBENCH_POLL. */
#ifndef BENCH_POLLER_H
#define BENCH_POLLER_H

#include <stdbool.h>

struct poller;

struct event {
    void *owner;
    bool readable, writable;
};

/* All of these return -1 with errno set when they fail. */
struct poller *poller_new(int descriptors);
int poller_add(struct poller *poller, int fd, void *owner, bool want_write);
int poller_change(struct poller *poller, int fd, void *owner, bool want_write);
/* Call it before close(fd). */
int poller_remove(struct poller *poller, int fd);
/* Fill `events` (at most `room`), wait at most `milliseconds`; returns how many. */
int poller_wait(struct poller *poller, struct event *events, int room, int milliseconds);

#endif
