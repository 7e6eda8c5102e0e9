/* The load over connections: open, keep the window full, check what comes back, open again. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "run.h"
#include "tls.h"

#define LOOK_AFTER 100000000         /* timeouts are looked for each 100 ms */
#define LARGEST_HEADER 4096          /* of an HTTP answer */
#define SOURCES 64
#define BATCH 256

/* What a connection sends over and over, what must come back, and where it is in that. */
struct connection {
    int number, fd;
    session session;
    bool wants_write;
    bool has_header, ends;           /* of HTTP; the server said that it closes the connection */
    int64_t *started;                /* a ring: when each operation in flight began */
    int first, in_flight;
    char *request, *reply;           /* repeated window + 1 times, so that any slice is there; of
                                        HTTP, `reply` has the header of an answer */
    size_t request_size, header_size;
    size_t to_send, send_at;         /* bytes that may be sent; where in the request */
    size_t reply_at;                 /* bytes of the line or body under way that have come */
};

struct engine {
    struct run *run;
    int epoll, count;
    int active;                      /* connections that still work */
    struct connection *connections;
    struct connection **closed;      /* a stack: to be opened at the end of this turn */
    int closed_count;
    int64_t turn_began, next_look;
    char received[256 * 1024];
};

/* The client closes first, so each closed connection leaves a TIME_WAIT on the client's side for a
   minute, and one pair of addresses has only some 28,000 ports. Closing with a reset would avoid it,
   but servers would see ECONNRESET where real clients send a FIN. So connections to 127.0.0.1 come
   from 127.0.1.1 to 127.0.1.64 in turn: Linux owns the whole of 127/8. */
static void choose_source(int fd)
{
    static unsigned turn;
    int on = 1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000101u + turn++ % SOURCES);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&source, sizeof source))
        perror("load: bind");
}

static int dial(const struct settings *set)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    choose_source(fd);
    if (!set->close)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (const struct sockaddr *)&set->address, sizeof set->address) == 0
        || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

/* An echoed line carries the number of its connection, so that a mix-up is seen. */
static void write_line(char *text, int number, size_t size)
{
    char stamp[16];
    int length = snprintf(stamp, sizeof stamp, "%07d ", number);
    fill_pattern(text, size);
    if ((size_t)length < size)
        memcpy(text, stamp, (size_t)length);
    text[size - 1] = '\n';
}

static int prepare(struct connection *c, const struct settings *set)
{
    size_t size = set->size * (size_t)(set->window + 1);
    c->request_size = set->request ? set->request_size : set->size;
    c->request = set->request ? set->request : malloc(size);
    c->reply = set->request ? malloc(LARGEST_HEADER) : c->request;
    c->started = calloc((size_t)set->window, sizeof *c->started);
    if (!c->request || !c->reply || !c->started)
        return -1;
    for (int i = 0; i <= set->window && !set->request; i++)
        write_line(c->request + (size_t)i * set->size, c->number, set->size);
    return 0;
}

/* How many bytes the server may still send. */
static size_t expected(const struct connection *c, const struct settings *set)
{
    return set->request ? set->size + LARGEST_HEADER : (size_t)c->in_flight * set->size - c->reply_at;
}

/* Read the header of an HTTP answer; returns how many of the bytes belong to it, or -1. */
static ssize_t check_header(struct connection *c, const char *bytes, size_t count)
{
    size_t before = c->header_size, room = LARGEST_HEADER - before;
    char *header = c->reply, *end;
    memcpy(header + before, bytes, count < room ? count : room);
    c->header_size += count < room ? count : room;
    if (!(end = memmem(header, c->header_size, "\r\n\r\n", 4)))
        return c->header_size < LARGEST_HEADER ? (ssize_t)count : -1;
    size_t size = (size_t)(end + 4 - header);
    if (size < 16 || memcmp(header, "HTTP/1.", 7) || memcmp(header + 8, " 200", 4))
        return -1;
    c->has_header = true;
    c->ends = header[7] == '0' || memmem(header, size, "onnection: close", 16);
    return (ssize_t)(size - before);
}

static int check_http(struct connection *c, const char *bytes, size_t count,
                      const struct settings *set)
{
    if (!c->has_header) {
        ssize_t size = check_header(c, bytes, count);
        if (size < 0)
            return -1;
        bytes += size;
        count -= (size_t)size;
    }
    if (count > set->size - c->reply_at || memcmp(bytes, set->answer + c->reply_at, count))
        return -1;
    c->reply_at += count;
    if (!c->has_header || c->reply_at < set->size)
        return 0;
    c->reply_at = c->header_size = 0;
    c->has_header = false;
    return 1;
}

/* How many operations the bytes complete, or -1 when they are wrong. */
static int check(struct connection *c, const char *bytes, size_t count, const struct settings *set)
{
    if (set->request)
        return check_http(c, bytes, count, set);
    if (count > expected(c, set) || memcmp(bytes, c->reply + c->reply_at, count))
        return -1;
    size_t whole = (c->reply_at + count) / set->size;
    c->reply_at = (c->reply_at + count) % set->size;
    return (int)whole;
}

static void take(struct engine *e, struct connection *c, int64_t now)
{
    const struct settings *set = &e->run->set;
    while (c->in_flight < set->window && run_take(e->run)) {
        c->started[(c->first + c->in_flight++) % set->window] = now;
        c->to_send += c->request_size;
    }
}

static void hang_up(struct engine *e, struct connection *c, bool again)
{
    if (c->fd >= 0)
        close_session(c->fd, c->session);
    c->fd = -1;
    if (again && e->run->phase != DRAINING)
        e->closed[e->closed_count++] = c;
    else
        e->active--;
}

static void fail(struct engine *e, struct connection *c, enum error kind)
{
    run_error(e->run, kind);
    hang_up(e, c, true);
}

static int watch(struct engine *e, struct connection *c, int how, bool writing)
{
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_write = writing;
    return epoll_ctl(e->epoll, how, c->fd, &event);
}

/* Returns false when the connection failed. */
static bool flush(struct engine *e, struct connection *c)
{
    bool writing = false;
    while (c->to_send) {
        ssize_t sent = put(c->fd, c->session, c->request + c->send_at, c->to_send);
        if (sent > 0) {
            c->to_send -= (size_t)sent;
            c->send_at = (c->send_at + (size_t)sent) % c->request_size;
        } else if (errno == EAGAIN || errno == ENOTCONN) {
            writing = waits_for_room(c->session);
            break;
        } else {
            fail(e, c, errno == ECONNREFUSED ? CONNECT : RESET);
            return false;
        }
    }
    if (writing != c->wants_write)
        watch(e, c, EPOLL_CTL_MOD, writing);
    return true;
}

static void start_connection(struct engine *e, struct connection *c)
{
    c->first = c->in_flight = 0;
    c->to_send = c->send_at = c->reply_at = c->header_size = 0;
    c->ends = c->has_header = false;
    take(e, c, now_ns());
    if (!c->in_flight) {
        hang_up(e, c, false);
        return;
    }
    c->fd = dial(&e->run->set);
    c->session = c->fd < 0 ? 0 : open_session(c->fd);
    if (c->fd < 0 || watch(e, c, EPOLL_CTL_ADD, false))
        fail(e, c, CONNECT);
    else
        flush(e, c);
}

static void complete(struct engine *e, struct connection *c, int64_t now)
{
    int64_t latency = now - c->started[c->first];
    c->first = (c->first + 1) % e->run->set.window;
    c->in_flight--;
    run_done(e->run, latency);
}

static void go_on(struct engine *e, struct connection *c, int64_t now)
{
    bool ends = c->ends || e->run->set.close;
    if (!ends)
        take(e, c, now);
    if (c->in_flight)
        flush(e, c);
    else
        hang_up(e, c, ends);
}

static void receive(struct engine *e, struct connection *c)
{
    const struct settings *set = &e->run->set;
    size_t wanted = expected(c, set) + 1; /* so that more is noticed */
    if (wanted > sizeof e->received)
        wanted = sizeof e->received;
    ssize_t count = get(c->fd, c->session, e->received, wanted);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        fail(e, c, count == 0 ? END_OF_FILE : errno == ECONNREFUSED ? CONNECT : RESET);
        return;
    }
    int whole = check(c, e->received, (size_t)count, set);
    int64_t now = now_ns();
    if (whole < 0) {
        fail(e, c, WRONG);
        return;
    }
    for (int i = 0; i < whole; i++)
        complete(e, c, now);
    if (whole)
        go_on(e, c, now);
    if (c->fd >= 0 && has_more(c->session))
        receive(e, c);
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

static void open_closed(struct engine *e)
{
    for (int count = e->closed_count; count; count--) {
        struct connection *c = e->closed[--e->closed_count];
        start_connection(e, c);
    }
}

static int turn(struct engine *e)
{
    struct epoll_event events[BATCH];
    int patience = e->closed_count || e->run->set.spin ? 0 : 10; /* milliseconds */
    int count = epoll_wait(e->epoll, events, BATCH, patience);
    int64_t now = now_ns();
    if (count == 0 || !e->run->set.spin)
        run_waited(e->run, e->turn_began, now);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->fd >= 0 && c->to_send && !flush(e, c))
            continue;
        if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
            receive(e, c);
    }
    now = e->turn_began = now_ns();
    if (now >= e->next_look) {
        look_for_timeouts(e, now);
        e->next_look = now + LOOK_AFTER;
    }
    run_tick(e->run, now);
    open_closed(e);
    return count < 0 && errno != EINTR ? -1 : 0;
}

static int allocate(struct engine *e)
{
    const struct settings *set = &e->run->set;
    e->count = set->connections;
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->connections = calloc((size_t)e->count, sizeof *e->connections);
    e->closed = calloc((size_t)e->count, sizeof *e->closed);
    if (e->epoll < 0 || !e->connections || !e->closed)
        return -1;
    for (int i = 0; i < e->count; i++) {
        struct connection *c = &e->connections[i];
        c->number = i;
        c->fd = -1;
        if (prepare(c, set))
            return -1;
    }
    return 0;
}

int run_streams(struct run *run)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return -1;
    e->run = run;
    if (allocate(e))
        return -1;
    run_begin(run);
    e->active = e->count;
    for (int i = 0; i < e->count; i++)
        start_connection(e, &e->connections[i]);
    while (e->active > 0)
        if (turn(e))
            return -1;
    run_end(run);
    return 0;
}
