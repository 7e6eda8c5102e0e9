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

#define LARGEST_HEADER 4096          /* of an HTTP answer */
#define SOURCES 64
#define BATCH 256

/* What a connection sends over and over, what must come back, and where it is in that. */
struct connection {
    int fd;
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

static struct {
    int epoll;
    int active;                      /* connections that still work */
    struct connection *connections;
    struct connection **closed;      /* a stack: to be opened at the end of this turn */
    int closed_count;
    char received[256 * 1024];
} e;

/* Connect from 127.0.1.1 to 127.0.1.64 in turn: see README.md on TIME_WAIT. Closing with a reset would
   leave none, but servers would see ECONNRESET where real clients send a FIN. */
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

static int dial(void)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    choose_source(fd);
    if (!set.close)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (const struct sockaddr *)&set.address, sizeof set.address) == 0
        || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

/* An echoed line carries the number of its connection, so that a mix-up is seen. */
static void write_line(char *text, int number, size_t size)
{
    char stamp[16];
    snprintf(stamp, sizeof stamp, "%07d ", number);
    fill_pattern(text, size);
    memcpy(text, stamp, LEAST_SIZE);
    text[size - 1] = '\n';
}

static int prepare(struct connection *c, int number)
{
    size_t size = set.size * (size_t)(set.window + 1);
    c->request_size = set.request ? set.request_size : set.size;
    c->request = set.request ? set.request : malloc(size);
    c->reply = set.request ? malloc(LARGEST_HEADER) : c->request;
    c->started = calloc((size_t)set.window, sizeof *c->started);
    if (!c->request || !c->reply || !c->started)
        return -1;
    for (int i = 0; i <= set.window && !set.request; i++)
        write_line(c->request + (size_t)i * set.size, number, set.size);
    return 0;
}

/* How many bytes the server may still send. */
static size_t expected(const struct connection *c)
{
    return set.request ? set.size + LARGEST_HEADER : (size_t)c->in_flight * set.size - c->reply_at;
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

static int check_http(struct connection *c, const char *bytes, size_t count)
{
    if (!c->has_header) {
        ssize_t size = check_header(c, bytes, count);
        if (size < 0)
            return -1;
        bytes += size;
        count -= (size_t)size;
    }
    if (count > set.size - c->reply_at || memcmp(bytes, set.answer + c->reply_at, count))
        return -1;
    c->reply_at += count;
    if (!c->has_header || c->reply_at < set.size)
        return 0;
    c->reply_at = c->header_size = 0;
    c->has_header = false;
    return 1;
}

/* How many operations the bytes complete, or -1 when they are wrong. */
static int check(struct connection *c, const char *bytes, size_t count)
{
    if (set.request)
        return check_http(c, bytes, count);
    if (count > expected(c) || memcmp(bytes, c->reply + c->reply_at, count))
        return -1;
    size_t whole = (c->reply_at + count) / set.size;
    c->reply_at = (c->reply_at + count) % set.size;
    return (int)whole;
}

static void take(struct connection *c, int64_t now)
{
    while (c->in_flight < set.window && run_take()) {
        c->started[(c->first + c->in_flight++) % set.window] = now;
        c->to_send += c->request_size;
    }
}

static void hang_up(struct connection *c, bool again)
{
    if (c->fd >= 0)
        close_session(c->fd, c->session);
    c->fd = -1;
    if (again && run.phase != DRAINING)
        e.closed[e.closed_count++] = c;
    else
        e.active--;
}

static void fail(struct connection *c, enum error kind)
{
    run_error(kind);
    hang_up(c, true);
}

static int watch(struct connection *c, int how, bool writing)
{
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_write = writing;
    return epoll_ctl(e.epoll, how, c->fd, &event);
}

/* Returns false when the connection failed. */
static bool flush(struct connection *c)
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
            fail(c, errno == ECONNREFUSED ? CONNECT : RESET);
            return false;
        }
    }
    if (writing != c->wants_write)
        watch(c, EPOLL_CTL_MOD, writing);
    return true;
}

static void start_connection(struct connection *c)
{
    c->first = c->in_flight = 0;
    c->to_send = c->send_at = c->reply_at = c->header_size = 0;
    c->ends = c->has_header = false;
    c->fd = -1;
    take(c, now_ns());
    if (!c->in_flight) {
        hang_up(c, false);
        return;
    }
    c->fd = dial();
    c->session = c->fd < 0 ? 0 : open_session(c->fd);
    if (c->fd < 0 || watch(c, EPOLL_CTL_ADD, false))
        fail(c, CONNECT);
    else
        flush(c);
}

static void go_on(struct connection *c, int64_t now)
{
    bool ends = c->ends || set.close;
    if (!ends)
        take(c, now);
    if (c->in_flight)
        flush(c);
    else
        hang_up(c, ends);
}

static void receive(struct connection *c)
{
    size_t wanted = expected(c) + 1; /* so that more is noticed */
    if (wanted > sizeof e.received)
        wanted = sizeof e.received;
    ssize_t count = get(c->fd, c->session, e.received, wanted);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        fail(c, count == 0 ? END_OF_FILE : errno == ECONNREFUSED ? CONNECT : RESET);
        return;
    }
    int whole = check(c, e.received, (size_t)count);
    int64_t now = now_ns();
    if (whole < 0) {
        fail(c, WRONG);
        return;
    }
    for (int i = 0; i < whole; i++) {
        run_done(now - c->started[c->first]);
        c->first = (c->first + 1) % set.window;
        c->in_flight--;
    }
    if (whole)
        go_on(c, now);
    if (c->fd >= 0 && has_more(c->session))
        receive(c);
}

static void look_for_timeouts(int64_t now)
{
    for (int i = 0; i < set.connections; i++) {
        struct connection *c = &e.connections[i];
        if (c->fd >= 0 && c->in_flight && now - c->started[c->first] > set.patience)
            fail(c, TIMEOUT);
    }
}

static void open_closed(void)
{
    for (int count = e.closed_count; count; count--) {
        struct connection *c = e.closed[--e.closed_count];
        start_connection(c);
    }
}

static int turn(void)
{
    struct epoll_event events[BATCH];
    int patience = e.closed_count || set.spin ? 0 : 10; /* milliseconds */
    int count = epoll_wait(e.epoll, events, BATCH, patience);
    int64_t now = now_ns();
    if (count == 0 || !set.spin)
        run_waited(now);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->fd >= 0 && c->to_send && !flush(c))
            continue;
        if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
            receive(c);
    }
    now = now_ns();
    if (run_turn(now))
        look_for_timeouts(now);
    open_closed();
    return count < 0 && errno != EINTR ? -1 : 0;
}

int run_streams(void)
{
    size_t count = (size_t)set.connections;
    e.epoll = epoll_create1(EPOLL_CLOEXEC);
    e.connections = calloc(count, sizeof *e.connections);
    e.closed = calloc(count, sizeof *e.closed);
    if (e.epoll < 0 || !e.connections || !e.closed)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (prepare(&e.connections[i], (int)i))
            return -1;
    run_begin();
    e.active = set.connections;
    for (int i = 0; i < set.connections; i++)
        start_connection(&e.connections[i]);
    while (e.active > 0)
        if (turn())
            return -1;
    run_end();
    return 0;
}
