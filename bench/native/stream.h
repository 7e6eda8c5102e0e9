/* One connection of the load: what it says over and over, and where it is in that. */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "poller.h"
#include "run.h"

enum kind { FAST, IDLE, SLOW };

struct connection {
    enum kind kind;
    int number, fd;
    bool wants_write;
    bool ends;                       /* the server said that it closes the connection */
    int window, most;                /* in flight; operations before it is closed, 0: no end */
    int done, taken;                 /* operations of this connection, since it was opened */
    int64_t *started;                /* a ring: when each operation in flight began */
    int first, in_flight;
    char *request, *reply;           /* repeated window + 1 times, so that any slice is there */
    size_t request_size, reply_size;
    size_t to_send, send_at;         /* bytes that may be sent; where in the request */
    size_t reply_at;                 /* bytes of the reply under way that have come, of HTTP's body */
    size_t header_size;              /* of HTTP: the same of its header */
    bool in_body;
};

/* Give the connection its request and the reply it must get; -1 when memory is out. */
int script_prepare(struct connection *c, const struct settings *set);
/* Look at bytes that came: how many operations they complete, or -1 when they are wrong. */
int script_check(struct connection *c, const char *bytes, size_t count, const struct settings *set);
/* How many bytes the server may still send: to be asked for plus one, so that more is noticed. */
size_t script_expects(const struct connection *c, const struct settings *set);

/* Open a non-blocking socket for at most `most` operations (0: no end); -1 with errno set. */
int dial(const struct settings *set, int most);

#endif
