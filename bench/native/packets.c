/* The load over datagrams: some sockets, on each a window of packets in flight. A packet begins with
   its number; one that has not come back in time is counted as lost and replaced. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "poller.h"
#include "run.h"

#define LOOK_AFTER 20000000          /* lost packets are looked for each 20 ms */
#define AT_ONCE 64                   /* packets read from one socket before the next socket's turn */
#define LARGEST 65536

struct slot {
    uint64_t number;
    int64_t sent;                    /* 0: nothing in flight */
};

struct port {
    int fd;
    struct slot *slots;
};

struct engine {
    struct run *run;
    struct poller *poller;
    struct port *ports;
    int in_flight;
    uint64_t next_number;
    int64_t turn_began, next_look;
    char packet[LARGEST], received[LARGEST];
};

/* The socket's own name, which a Unix server needs to answer to. */
static int bind_unix(const struct settings *set, int fd, int number)
{
    struct sockaddr_un own = {.sun_family = AF_UNIX};
    const struct sockaddr_un *server = (const struct sockaddr_un *)&set->address;
    snprintf(own.sun_path, sizeof own.sun_path, "%.80s.%d", server->sun_path, number);
    unlink(own.sun_path);
    return bind(fd, (struct sockaddr *)&own, sizeof own);
}

static void unlink_own(const struct settings *set, int number)
{
    const struct sockaddr_un *server = (const struct sockaddr_un *)&set->address;
    char path[sizeof server->sun_path];
    snprintf(path, sizeof path, "%.80s.%d", server->sun_path, number);
    unlink(path);
}

static int open_port(struct engine *e, int number)
{
    const struct settings *set = &e->run->set;
    struct port *port = &e->ports[number];
    int fd = socket(set->family, SOCK_DGRAM, 0);
    port->fd = fd;
    port->slots = calloc((size_t)set->window, sizeof *port->slots);
    if (fd < 0 || !port->slots || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return -1;
    if (set->family == AF_UNIX && bind_unix(set, fd, number) < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)&set->address, set->address_length) < 0)
        return -1;
    return poller_add(e->poller, fd, port, false);
}

/* Unix datagrams do not get lost: a full queue says EAGAIN, and the server then empties it. */
static ssize_t send_packet(int fd, const char *packet, size_t size)
{
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    ssize_t sent = send(fd, packet, size, 0);
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
        poll(&room, 1, 10);
        sent = send(fd, packet, size, 0);
    }
    return sent;
}

/* The number is unique over the run; its remainder tells the slot. */
static void launch(struct engine *e, struct port *port, int slot, int64_t now)
{
    struct slot *s = &port->slots[slot];
    s->sent = 0;
    if (!run_take(e->run))
        return;
    s->number = e->next_number++ * (uint64_t)e->run->set.window + (uint64_t)slot;
    memcpy(e->packet, &s->number, sizeof s->number);
    s->sent = now;
    e->in_flight++;
    if (send_packet(port->fd, e->packet, e->run->set.size) < 0)
        run_error(e->run, errno == ECONNREFUSED ? CONNECT : RESET);
}

static void judge(struct engine *e, struct port *port, size_t count, int64_t now)
{
    uint64_t number;
    size_t size = e->run->set.size, start = sizeof number;
    memcpy(&number, e->received, start);
    if (count != size || memcmp(e->received + start, e->packet + start, size - start)) {
        run_error(e->run, WRONG);
        return;
    }
    int slot = (int)(number % (uint64_t)e->run->set.window);
    struct slot *s = &port->slots[slot];
    if (!s->sent || s->number != number) {
        e->run->late++;
        return;
    }
    run_done(e->run, now - s->sent);
    e->in_flight--;
    launch(e, port, slot, now);
}

static void receive(struct engine *e, struct port *port)
{
    for (int i = 0; i < AT_ONCE; i++) {
        ssize_t count = recv(port->fd, e->received, sizeof e->received, 0);
        if (count < 0 && errno == ECONNREFUSED)
            run_error(e->run, CONNECT);
        if (count < 0)
            return;
        judge(e, port, (size_t)count, now_ns());
    }
}

static void look_for_lost(struct engine *e, int64_t now)
{
    int64_t patience = (int64_t)(e->run->set.timeout * 1e9);
    for (int i = 0; i < e->run->set.connections; i++)
        for (int slot = 0; slot < e->run->set.window; slot++) {
            struct slot *s = &e->ports[i].slots[slot];
            if (!s->sent || now - s->sent <= patience)
                continue;
            run_error(e->run, LOST);
            e->in_flight--;
            launch(e, &e->ports[i], slot, now);
        }
}

static int turn(struct engine *e)
{
    struct event events[64];
    int count = poller_wait(e->poller, events, 64, run_patience(e->run));
    int64_t now = now_ns();
    if (count == 0 || !e->run->set.spin)
        run_waited(e->run, e->turn_began, now);
    for (int i = 0; i < count; i++)
        receive(e, events[i].owner);
    now = e->turn_began = now_ns();
    if (now >= e->next_look) {
        look_for_lost(e, now);
        e->next_look = now + LOOK_AFTER;
    }
    run_tick(e->run, now);
    return count;
}

static int allocate(struct engine *e)
{
    int count = e->run->set.connections;
    fill_pattern(e->packet, e->run->set.size);
    e->poller = poller_new(count);
    e->ports = calloc((size_t)count, sizeof *e->ports);
    if (!e->poller || !e->ports)
        return -1;
    for (int i = 0; i < count; i++)
        if (open_port(e, i) < 0)
            return -1;
    return 0;
}

static void close_all(struct engine *e)
{
    for (int i = 0; i < e->run->set.connections; i++) {
        close(e->ports[i].fd);
        if (e->run->set.family == AF_UNIX)
            unlink_own(&e->run->set, i);
    }
}

int run_packets(struct run *run)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return -1;
    e->run = run;
    if (allocate(e))
        return -1;
    run_begin(run);
    for (int i = 0; i < run->set.connections; i++)
        for (int slot = 0; slot < run->set.window; slot++)
            launch(e, &e->ports[i], slot, now_ns());
    while (e->in_flight > 0)
        if (turn(e) < 0)
            return -1;
    run_end(run);
    close_all(e);
    return 0;
}
