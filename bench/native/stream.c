/* The load over connections: open, keep the window full, check what comes back, open again. */
#define _GNU_SOURCE
#include "stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SLOW_STEP 10000000           /* a slow client sends one byte each 10 ms */
#define LOOK_AFTER 100000000         /* timeouts are looked for each 100 ms */
#define BATCH 256
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

struct engine {
    struct run *run;
    struct poller *poller;
    struct connection *connections;
    int count;
    struct connection **closed;      /* a stack: to be opened at the end of this turn */
    int closed_count;
    int64_t turn_began, next_step, next_look;
    char received[256 * 1024];
};

static bool may_take(struct engine *e, struct connection *c)
{
    if (c->in_flight == c->window || (c->most && c->taken == c->most))
        return false;
    return c->kind != FAST || run_take(e->run);
}

static void take(struct engine *e, struct connection *c, int64_t now)
{
    while (may_take(e, c)) {
        c->started[(c->first + c->in_flight++) % c->window] = now;
        c->taken++;
        c->to_send += c->request_size;
    }
}

/* Closed connections of the background stay closed; the others are opened again if there is work. */
static void hang_up(struct engine *e, struct connection *c, bool again)
{
    if (c->fd >= 0) {
        poller_remove(e->poller, c->fd);
        close(c->fd);
    }
    c->fd = -1;
    if (again && e->run->phase != DRAINING)
        e->closed[e->closed_count++] = c;
    else if (c->kind == FAST)
        e->run->active--;
}

static void fail(struct engine *e, struct connection *c, enum error kind)
{
    run_error(e->run, kind);
    hang_up(e, c, c->kind == FAST);
}

static void want_write(struct engine *e, struct connection *c, bool want)
{
    if (c->wants_write != want)
        poller_change(e->poller, c->fd, c, want);
    c->wants_write = want;
}

static size_t sendable(const struct connection *c)
{
    return c->kind == SLOW && c->to_send > 1 ? 1 : c->to_send;
}

/* Returns false when the connection failed. */
static bool flush(struct engine *e, struct connection *c)
{
    while (c->to_send) {
        ssize_t sent = send(c->fd, c->request + c->send_at, sendable(c), MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != ENOTCONN && errno != EINTR) {
            fail(e, c, errno == ECONNREFUSED ? CONNECT : RESET);
            return false;
        }
        if (sent < 0)
            break;
        c->to_send -= (size_t)sent;
        c->send_at = (c->send_at + (size_t)sent) % c->request_size;
        if (c->kind == SLOW)
            return true;
    }
    want_write(e, c, c->to_send && c->kind != SLOW);
    return true;
}

static bool start_connection(struct engine *e, struct connection *c)
{
    int64_t now = now_ns();
    c->taken = c->done = c->first = c->in_flight = 0;
    c->to_send = c->send_at = c->reply_at = c->header_size = 0;
    c->wants_write = c->ends = c->in_body = false;
    take(e, c, now);
    if (!c->in_flight) {
        hang_up(e, c, false);
        return true;
    }
    c->fd = dial(&e->run->set, c->most);
    if (c->fd < 0 || poller_add(e->poller, c->fd, c, false) < 0) {
        fail(e, c, CONNECT);
        return false;
    }
    return flush(e, c);
}

static void complete(struct engine *e, struct connection *c, int64_t now)
{
    int64_t latency = now - c->started[c->first];
    c->first = (c->first + 1) % c->window;
    c->in_flight--;
    c->done++;
    if (c->kind == FAST)
        run_done(e->run, latency);
    else if (c->kind == SLOW)
        e->run->slow_operations++;
    else
        e->run->idle_ready++;
}

static void go_on(struct engine *e, struct connection *c, int64_t now)
{
    if (!c->ends)
        take(e, c, now);
    if (c->in_flight)
        flush(e, c);
    else if (c->kind != IDLE)
        hang_up(e, c, c->ends || (c->most && c->done == c->most));
}

static void receive(struct engine *e, struct connection *c)
{
    size_t wanted = script_expects(c, &e->run->set) + 1;
    if (wanted > sizeof e->received)
        wanted = sizeof e->received;
    ssize_t count = recv(c->fd, e->received, wanted, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        fail(e, c, count == 0 ? END_OF_FILE : errno == ECONNREFUSED ? CONNECT : RESET);
        return;
    }
    int whole = script_check(c, e->received, (size_t)count, &e->run->set);
    int64_t now = now_ns();
    if (whole < 0) {
        fail(e, c, WRONG);
        return;
    }
    for (int i = 0; i < whole; i++)
        complete(e, c, now);
    if (whole)
        go_on(e, c, now);
}

static void look_for_timeouts(struct engine *e, int64_t now)
{
    int64_t patience = (int64_t)(e->run->set.timeout * 1e9);
    for (int i = 0; i < e->count; i++) {
        struct connection *c = &e->connections[i];
        if (c->fd >= 0 && c->in_flight && now - c->started[c->first] > patience)
            fail(e, c, TIMEOUT);
    }
}

/* The clock of a slow operation begins anew with each byte sent. */
static void step_slow(struct engine *e, int64_t now)
{
    for (int i = 0; i < e->count; i++) {
        struct connection *c = &e->connections[i];
        if (c->kind != SLOW || c->fd < 0)
            continue;
        take(e, c, now);
        if (c->to_send)
            c->started[c->first] = now;
        flush(e, c);
    }
}

static void open_closed(struct engine *e)
{
    int count = e->closed_count;
    struct connection *batch[BATCH];
    while (count) {
        int some = count < BATCH ? count : BATCH;
        count -= some;
        for (int i = 0; i < some; i++)
            batch[i] = e->closed[--e->closed_count];
        for (int i = 0; i < some; i++)
            start_connection(e, batch[i]);
    }
}

static int turn(struct engine *e)
{
    struct event events[BATCH];
    int count = poller_wait(e->poller, events, BATCH, e->closed_count ? 0 : run_patience(e->run));
    int64_t now = now_ns();
    if (count == 0 || !e->run->set.spin)
        run_waited(e->run, e->turn_began, now);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].owner;
        if (c->fd >= 0 && events[i].writable && !flush(e, c))
            continue;
        if (c->fd >= 0 && events[i].readable)
            receive(e, c);
    }
    now = e->turn_began = now_ns();
    if (now >= e->next_step) {
        step_slow(e, now);
        e->next_step = now + SLOW_STEP;
    }
    if (now >= e->next_look) {
        look_for_timeouts(e, now);
        e->next_look = now + LOOK_AFTER;
    }
    run_tick(e->run, now);
    open_closed(e);
    return count;
}

static int prepare(struct engine *e, int number, enum kind kind)
{
    const struct settings *set = &e->run->set;
    struct connection *c = &e->connections[number];
    c->kind = kind;
    c->number = number;
    c->fd = -1;
    c->window = kind == FAST ? set->window : 1;
    c->most = kind == FAST ? set->per_connection : kind == IDLE ? 1 : 0;
    return script_prepare(c, set);
}

static int allocate(struct engine *e)
{
    const struct settings *set = &e->run->set;
    e->count = set->connections + set->idle + set->slow;
    e->poller = poller_new(e->count + 1);
    e->connections = calloc((size_t)e->count, sizeof *e->connections);
    e->closed = calloc((size_t)e->count, sizeof *e->closed);
    if (!e->poller || !e->connections || !e->closed)
        return -1;
    for (int i = 0; i < e->count; i++)
        if (prepare(e, i, i < set->idle ? IDLE : i < set->idle + set->slow ? SLOW : FAST))
            return -1;
    return 0;
}

/* The idle ones get their line first; the run's clock starts when all of them stand. Never are so
   many under way that they fill the server's backlog. */
static int stand_idle(struct engine *e)
{
    int64_t begin = now_ns();
    int begun = 0, ready = 0;
    while (ready < e->run->set.idle) {
        while (begun < e->run->set.idle && begun - ready < BATCH)
            start_connection(e, &e->connections[begun++]);
        if (turn(e) < 0)
            return -1;
        ready = e->run->idle_ready + (int)e->run->errors_total;
    }
    for (int i = 0; i < e->run->set.slow; i++)
        start_connection(e, &e->connections[begun + i]);
    if (!e->run->set.hold)
        return 0;
    printf("holding %.6f\n", (double)(now_ns() - begin) / 1e9);
    fflush(stdout);
    getchar();
    return 0;
}

static void hang_up_all(struct engine *e)
{
    for (int i = 0; i < e->count; i++)
        if (e->connections[i].fd >= 0)
            close(e->connections[i].fd);
}

int run_streams(struct run *run)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return -1;
    e->run = run;
    if (allocate(e) || stand_idle(e))
        return -1;
    run_begin(run);
    run->active = run->set.connections;
    for (int i = e->count - run->set.connections; i < e->count; i++)
        start_connection(e, &e->connections[i]);
    while (run->active > 0)
        if (turn(e) < 0)
            return -1;
    run_end(run);
    hang_up_all(e);
    return 0;
}
