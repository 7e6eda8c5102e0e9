/* The floor: what a C server needs for the same work on this machine. One thread, no checks beyond
   the protocol's, answers sent at once. It echoes bytes without waiting for the end of a line, or
   answers each HTTP request with a page. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "run.h"

#define BACKLOG 1024
#define MOST_BODY (10 << 20)
#define BATCH 256

struct peer {
    int fd;
    size_t used;                     /* bytes of an unfinished header */
    char header[4096];
};

static size_t page;                  /* bytes of the body of an HTTP answer, 0: echo */
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
    if (peer->used < 4 || memcmp(peer->header + peer->used - 4, "\r\n\r\n", 4))
        return 0;
    bool ends = memmem(peer->header, peer->used, "HTTP/1.0", 8);
    int length = sprintf(received, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", page);
    size_t first = page < sizeof received / 2 ? page : 0;
    memcpy(received + length, body, first);
    peer->used = 0;
    if (send_all(peer->fd, received, (size_t)length + first)
        || send_all(peer->fd, body + first, page - first))
        return -1;
    return ends ? -1 : 0;
}

static int serve(struct peer *peer)
{
    char *into = page ? peer->header + peer->used : received;
    ssize_t count = recv(peer->fd, into, page ? sizeof peer->header - peer->used : sizeof received, 0);
    if (count < 0 && errno == EAGAIN)
        return 0;
    if (count <= 0)
        return -1;
    if (!page)
        return send_all(peer->fd, received, (size_t)count);
    peer->used += (size_t)count;
    return answer_http(peer);
}

static void welcome(int epoll, int listener)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct peer *peer = calloc(1, sizeof *peer);
        if (!peer)
            stop("calloc");
        peer->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (serve(peer) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0)
            continue;
        close(fd);
        free(peer);
    }
}

static void serve_streams(int listener)
{
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[BATCH];
    if (epoll < 0 || fcntl(listener, F_SETFL, O_NONBLOCK) < 0
        || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        stop("listen");
    for (;;) {
        int count = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            if (!peer) {
                welcome(epoll, listener);
            } else if (serve(peer)) {
                close(peer->fd);
                free(peer);
            }
        }
    }
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

static int open_socket(const char *kind, int type)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof own;
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, length)
        || (type == SOCK_STREAM && listen(fd, BACKLOG))
        || getsockname(fd, (struct sockaddr *)&own, &length))
        stop("bind");
    printf("{\"address\": \"%s:127.0.0.1:%d\"}\n", kind, ntohs(own.sin_port));
    fflush(stdout);
    return fd;
}

/* floor tcp|udp TRAFFIC: TRAFFIC is echo, or http:BYTES of the body of an answer. */
int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    bool packets = !strcmp(argv[1], "udp");
    if (!strncmp(argv[2], "http:", 5) && (page = strtoul(argv[2] + 5, NULL, 10)) > MOST_BODY)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    alarm(600);
    allow_descriptors();
    fill_pattern(body, sizeof body);
    (packets ? serve_packets : serve_streams)(
        open_socket(argv[1], packets ? SOCK_DGRAM : SOCK_STREAM));
}
