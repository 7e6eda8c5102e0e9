/* The load over datagrams: one socket with a window of packets in flight. A packet begins with its
   number; one that has not come back in time is counted as lost and replaced. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

#define LOOK_AFTER 20000000          /* lost packets are looked for each 20 ms */
#define LARGEST 65536

struct slot {
    uint64_t number;
    int64_t sent;                    /* 0: nothing in flight */
};

struct engine {
    struct run *run;
    int fd, in_flight;
    struct slot *slots;
    uint64_t next_number;
    int64_t turn_began, next_look;
    char packet[LARGEST], received[LARGEST];
};

/* The number is unique over the run; its remainder tells the slot. */
static void launch(struct engine *e, int slot, int64_t now)
{
    struct slot *s = &e->slots[slot];
    s->sent = 0;
    if (!run_take(e->run))
        return;
    s->number = e->next_number++ * (uint64_t)e->run->set.window + (uint64_t)slot;
    memcpy(e->packet, &s->number, sizeof s->number);
    s->sent = now;
    e->in_flight++;
    if (send(e->fd, e->packet, e->run->set.size, 0) < 0)
        run_error(e->run, errno == ECONNREFUSED ? CONNECT : RESET);
}

/* One that is late was counted as lost. */
static void judge(struct engine *e, size_t count, int64_t now)
{
    uint64_t number;
    size_t size = e->run->set.size, start = sizeof number;
    memcpy(&number, e->received, start);
    if (count != size || memcmp(e->received + start, e->packet + start, size - start)) {
        run_error(e->run, WRONG);
        return;
    }
    int slot = (int)(number % (uint64_t)e->run->set.window);
    struct slot *s = &e->slots[slot];
    if (!s->sent || s->number != number)
        return;
    run_done(e->run, now - s->sent);
    e->in_flight--;
    launch(e, slot, now);
}

static void look_for_lost(struct engine *e, int64_t now)
{
    for (int slot = 0; slot < e->run->set.window; slot++) {
        struct slot *s = &e->slots[slot];
        if (!s->sent || now - s->sent <= (int64_t)(e->run->set.timeout * 1e9))
            continue;
        run_error(e->run, LOST);
        e->in_flight--;
        launch(e, slot, now);
    }
}

static void turn(struct engine *e)
{
    ssize_t count = recv(e->fd, e->received, sizeof e->received, MSG_DONTWAIT);
    int64_t now = now_ns();
    if (count < 0) {
        struct pollfd ready = {.fd = e->fd, .events = POLLIN};
        if (errno == ECONNREFUSED)
            run_error(e->run, CONNECT);
        if (!e->run->set.spin)
            poll(&ready, 1, 10);
        now = now_ns();
        run_waited(e->run, e->turn_began, now);
    } else {
        judge(e, (size_t)count, now);
    }
    if (now >= e->next_look) {
        look_for_lost(e, now);
        e->next_look = now + LOOK_AFTER;
    }
    run_tick(e->run, now);
    e->turn_began = now;
}

int run_packets(struct run *run)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e || !(e->slots = calloc((size_t)run->set.window, sizeof *e->slots))
        || (e->fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0
        || connect(e->fd, (struct sockaddr *)&run->set.address, sizeof run->set.address))
        return -1;
    e->run = run;
    fill_pattern(e->packet, run->set.size);
    run_begin(run);
    e->turn_began = now_ns();
    for (int slot = 0; slot < run->set.window; slot++)
        launch(e, slot, e->turn_began);
    while (e->in_flight > 0)
        turn(e);
    run_end(run);
    return 0;
}
