/* The floor: what a C server needs for the same work on this machine. One thread, no checks beyond
   the protocol's, answers sent at once; it trusts that the load generator reads what it asked for.
   A line is echoed as it comes, without waiting for its end.

   With the traffic "threads" it is the floor of a threading server instead: a thread for each
   connection, which blocks in recv and echoes what comes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "poller.h"
#include "run.h"

#define BACKLOG 1024
#define MOST_BODY (10 << 20)
#define BATCH 256

struct peer {
    int fd;
    size_t body_left;                /* bytes of an upload that are still to come */
    size_t used;                     /* bytes of an unfinished header */
    char header[4096];
};

static enum traffic traffic;
static size_t page = 1024;           /* bytes of the body of an HTTP answer */
static char body[MOST_BODY], received[256 * 1024];

static void stop(const char *what)
{
    perror(what);
    exit(2);
}

/* Send all of it, waiting for room. */
static int send_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, bytes, size, 0);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            poll(&room, 1, 1000);
        } else if (sent < 0) {
            return -1;
        } else {
            bytes += sent;
            size -= (size_t)sent;
        }
    }
    return 0;
}

static int answer_http(struct peer *peer)
{
    char head[128];
    if (peer->used < 4 || memcmp(peer->header + peer->used - 4, "\r\n\r\n", 4))
        return 0;
    bool ends = memmem(peer->header, peer->used, "HTTP/1.0", 8);
    int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", page);
    size_t first = page < sizeof received - sizeof head ? page : 0;
    memcpy(received, head, (size_t)length);
    memcpy(received + length, body, first);
    peer->used = 0;
    if (send_all(peer->fd, received, (size_t)length + first)
        || send_all(peer->fd, body + first, page - first))
        return -1;
    return ends ? -1 : 0;
}

/* "P n\n" and a body, or "G n\n". */
static int answer_body(struct peer *peer)
{
    char *end = memchr(peer->header, '\n', peer->used);
    if (!end)
        return 0;
    size_t rest = peer->used - (size_t)(end + 1 - peer->header);
    size_t size = strtoul(peer->header + 1, NULL, 10);
    peer->used = 0;
    if (peer->header[0] == 'G')
        return send_all(peer->fd, body, size < MOST_BODY ? size : MOST_BODY);
    peer->body_left = size - rest;
    return peer->body_left ? 0 : send_all(peer->fd, "ok\n", 3);
}

static int take_body(struct peer *peer, size_t count)
{
    peer->body_left -= count < peer->body_left ? count : peer->body_left;
    return peer->body_left ? 0 : send_all(peer->fd, "ok\n", 3);
}

static int serve(struct peer *peer)
{
    bool in_header = traffic != ECHO && !peer->body_left;
    char *into = in_header ? peer->header + peer->used : received;
    ssize_t count = recv(peer->fd, into, in_header ? sizeof peer->header - peer->used
                                                   : sizeof received, 0);
    if (count < 0 && errno == EAGAIN)
        return 0;
    if (count <= 0)
        return -1;
    if (!in_header)
        return traffic == ECHO ? send_all(peer->fd, received, (size_t)count)
                               : take_body(peer, (size_t)count);
    peer->used += (size_t)count;
    return traffic == HTTP ? answer_http(peer) : answer_body(peer);
}

static void welcome(struct poller *poller, int listener)
{
    int fd, on = 1;
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        struct peer *peer = calloc(1, sizeof *peer);
        if (!peer)
            stop("calloc");
        peer->fd = fd;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (serve(peer) == 0 && poller_add(poller, fd, peer, false) == 0)
            continue;
        close(fd);
        free(peer);
    }
}

static void serve_streams(int listener)
{
    struct poller *poller = poller_new(20000);
    if (!poller || listen(listener, BACKLOG) || fcntl(listener, F_SETFL, O_NONBLOCK) < 0
        || poller_add(poller, listener, NULL, false))
        stop("listen");
    for (;;) {
        struct event events[BATCH];
        int count = poller_wait(poller, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].owner;
            if (!peer) {
                welcome(poller, listener);
            } else if (serve(peer)) {
                poller_remove(poller, peer->fd);
                close(peer->fd);
                free(peer);
            }
        }
    }
}

static void *echo(void *fd)
{
    char line[8192];
    ssize_t count;
    while ((count = recv((int)(intptr_t)fd, line, sizeof line, 0)) > 0
           && send_all((int)(intptr_t)fd, line, (size_t)count) == 0)
        continue;
    close((int)(intptr_t)fd);
    return NULL;
}

static void serve_threads(int listener)
{
    int fd, on = 1;
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        pthread_t thread;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (pthread_create(&thread, NULL, echo, (void *)(intptr_t)fd))
            stop("pthread_create");
        pthread_detach(thread);
    }
    stop("accept");
}

static void serve_packets(int fd)
{
    struct sockaddr_storage from;
    for (;;) {
        socklen_t length = sizeof from;
        ssize_t count = recvfrom(fd, received, sizeof received, 0, (struct sockaddr *)&from, &length);
        if (count >= 0)
            sendto(fd, received, (size_t)count, 0, (struct sockaddr *)&from, length);
    }
}

static int open_inet(int type)
{
    int fd = socket(AF_INET, type, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof own;
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, length)
        || getsockname(fd, (struct sockaddr *)&own, &length))
        stop("bind");
    printf("{\"address\": \"%s:127.0.0.1:%d\"}\n", type == SOCK_STREAM ? "tcp" : "udp",
           ntohs(own.sin_port));
    return fd;
}

static int open_unix(int type, const char *path)
{
    int fd = socket(AF_UNIX, type, 0);
    struct sockaddr_un own = {.sun_family = AF_UNIX};
    snprintf(own.sun_path, sizeof own.sun_path, "%s", path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own))
        stop("bind");
    printf("{\"address\": \"%s:%s\"}\n", type == SOCK_STREAM ? "unix" : "unixgram", path);
    return fd;
}

/* floor KIND TRAFFIC [PATH]: KIND is tcp, unix, udp or unixgram, TRAFFIC is echo, threads, bulk or
   http:BYTES of the body of an answer. */
int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    bool packets = !strcmp(argv[1], "udp") || !strcmp(argv[1], "unixgram");
    int type = packets ? SOCK_DGRAM : SOCK_STREAM;
    int fd = argc > 3 ? open_unix(type, argv[3]) : open_inet(type);
    if (!strncmp(argv[2], "http:", 5))
        page = strtoul(argv[2] + 5, NULL, 10);
    if (page > MOST_BODY)
        return 2;
    traffic = !strncmp(argv[2], "http:", 5) ? HTTP : !strcmp(argv[2], "bulk") ? UP : ECHO;
    signal(SIGPIPE, SIG_IGN);
    alarm(600);
    allow_descriptors();
    fill_pattern(body, sizeof body);
    if (!packets && listen(fd, BACKLOG))
        stop("listen");
    fflush(stdout);
    if (packets)
        serve_packets(fd);
    if (!strcmp(argv[2], "threads"))
        serve_threads(fd);
    serve_streams(fd);
}
