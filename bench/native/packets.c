/* The load over datagrams: one socket with a window of packets in flight. A packet begins with its
   number; one that has not come back in time is counted as lost and replaced. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

#define LARGEST 65536

struct slot {
    uint64_t number;
    int64_t sent;                    /* 0: nothing in flight */
};

static struct {
    int fd, in_flight;
    struct slot *slots;
    uint64_t next_number;
    char packet[LARGEST], received[LARGEST];
} e;

/* The number is unique over the run; its remainder tells the slot. */
static void launch(int slot, int64_t now)
{
    struct slot *s = &e.slots[slot];
    s->sent = 0;
    if (!run_take())
        return;
    s->number = e.next_number++ * (uint64_t)set.window + (uint64_t)slot;
    memcpy(e.packet, &s->number, sizeof s->number);
    s->sent = now;
    e.in_flight++;
    if (send(e.fd, e.packet, set.size, 0) < 0)
        run_error(errno == ECONNREFUSED ? CONNECT : RESET);
}

/* One that is late was counted as lost. */
static void judge(size_t count, int64_t now)
{
    uint64_t number;
    size_t size = set.size, start = sizeof number;
    memcpy(&number, e.received, start);
    if (count != size || memcmp(e.received + start, e.packet + start, size - start)) {
        run_error(WRONG);
        return;
    }
    int slot = (int)(number % (uint64_t)set.window);
    struct slot *s = &e.slots[slot];
    if (!s->sent || s->number != number)
        return;
    run_done(now - s->sent);
    e.in_flight--;
    launch(slot, now);
}

static void look_for_lost(int64_t now)
{
    for (int slot = 0; slot < set.window; slot++) {
        struct slot *s = &e.slots[slot];
        if (!s->sent || now - s->sent <= set.patience)
            continue;
        run_error(LOST);
        e.in_flight--;
        launch(slot, now);
    }
}

static void turn(void)
{
    ssize_t count = recv(e.fd, e.received, sizeof e.received, MSG_DONTWAIT);
    int64_t now = now_ns();
    if (count < 0) {
        struct pollfd ready = {.fd = e.fd, .events = POLLIN};
        if (errno == ECONNREFUSED)
            run_error(CONNECT);
        if (!set.spin)
            poll(&ready, 1, 10);
        now = now_ns();
        run_waited(now);
    } else {
        judge((size_t)count, now);
    }
    if (run_turn(now))
        look_for_lost(now);
}

int run_packets(void)
{
    if (!(e.slots = calloc((size_t)set.window, sizeof *e.slots))
        || (e.fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0
        || connect(e.fd, (struct sockaddr *)&set.address, sizeof set.address))
        return -1;
    fill_pattern(e.packet, set.size);
    run_begin();
    for (int slot = 0; slot < set.window; slot++)
        launch(slot, run.begin);
    while (e.in_flight > 0)
        turn();
    run_end();
    return 0;
}
