/* What a C server needs for the same bytes: one thread over epoll, no parsing beyond the end of a
   request. A connection that begins with "GET " gets HTTP answers of 1 KiB, any other its own bytes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BACKLOG 1024
#define BATCH 64
#define PAGE 1024
#define BUFFER 8192
#define MOST 65536

/* What each descriptor has sent; only the pages that are used take memory. */
static struct peer {
    size_t used;
    char request[BUFFER];
} peers[MOST];

static char answer[PAGE + 128];
static size_t answer_size;

static void stop(const char *what)
{
    perror(what);
    exit(2);
}

static void write_answer(void)
{
    answer_size = (size_t)sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", PAGE);
    for (int i = 0; i < PAGE; i++)
        answer[answer_size++] = (char)('a' + i % 26);
}

/* All that is sent fits into an empty socket's buffer. */
static int reply(int fd, const char *bytes, size_t size)
{
    return send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

static int serve_http(int fd, struct peer *peer)
{
    if (peer->used < 4 || memcmp(peer->request + peer->used - 4, "\r\n\r\n", 4))
        return peer->used < BUFFER ? 0 : -1;
    int closes = memmem(peer->request, peer->used, "HTTP/1.0", 8) != NULL;
    peer->used = 0;
    return reply(fd, answer, answer_size) || closes ? -1 : 0;
}

/* Take what has come; -1 when the connection is over. */
static int serve(int fd)
{
    struct peer *peer = &peers[fd];
    ssize_t count = recv(fd, peer->request + peer->used, BUFFER - peer->used, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN)
        return 0;
    if (count <= 0)
        return -1;
    peer->used += (size_t)count;
    if (peer->used >= 4 && !memcmp(peer->request, "GET ", 4))
        return serve_http(fd, peer);
    peer->used = 0;
    return reply(fd, peer->request, (size_t)count);
}

static void watch(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        stop("epoll_ctl");
}

static void welcome(int poller, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST)
            stop("too many connections");
        peers[fd].used = 0;
        watch(poller, fd);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0), on = 1;
    own.sin_port = htons((unsigned short)atoi(argc > 1 ? argv[1] : "0"));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, BACKLOG))
        stop("bind");
    write_answer();
    watch(poller, listener);
    for (;;) {
        struct epoll_event events[BATCH];
        int count = epoll_wait(poller, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                welcome(poller, listener);
            else if (serve(fd))
                close(fd);
        }
    }
}
