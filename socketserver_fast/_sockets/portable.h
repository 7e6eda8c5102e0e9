/* The system calls of the compiled modules, with one spelling for every system.
 *
 * Each function returns what the call returned, or -errno. Where SSF_NATIVE is 0 (Windows, or a
 * build with SSF_PORTABLE) only cooperative sockets use them, and on Windows nothing does: the modules
 * go through the methods of socket.socket and through selectors. There they exist to be compiled. */
#ifndef SSF_PORTABLE_H
#define SSF_PORTABLE_H

#if defined(_WIN32) || defined(SSF_PORTABLE)
#define SSF_NATIVE 0
#else
#define SSF_NATIVE 1
#endif

#include <errno.h>
#include <stddef.h>
#include <string.h>

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
#define MSG_DONTWAIT 0
#ifndef POLLIN
#define POLLIN 1
#define POLLOUT 4
#define POLLNVAL 32
#endif
typedef struct { int fd; short events; short revents; } ssf_pollfd;
#else
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
typedef struct pollfd ssf_pollfd;
#endif
#ifdef __linux__
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#endif
#include <sys/stat.h>

#ifndef MSG_TRUNC
#define MSG_TRUNC 0x0100
#define MSG_CTRUNC 0x0200
#endif

/* One received datagram: where it goes, how long it was, and who sent it. */
typedef struct {
    char *data;
    ptrdiff_t length;
    int flags; /* msg_flags: MSG_TRUNC, MSG_CTRUNC */
    struct sockaddr_storage address;
    socklen_t address_length;
} ssf_packet;

#define SSF_BATCH 16

#if defined(__linux__) && !defined(SO_MEMINFO)
#define SO_MEMINFO 55 /* Linux 4.12, younger than the headers of some builds */
#endif
#ifdef SO_MEMINFO
#define SSF_SO_MEMINFO SO_MEMINFO
#else
#define SSF_SO_MEMINFO -1
#endif
#ifdef SO_RXQ_OVFL
#define SSF_SO_RXQ_OVFL SO_RXQ_OVFL
#else
#define SSF_SO_RXQ_OVFL -1
#endif

#ifdef MSG_ERRQUEUE
#define SSF_MSG_ERRQUEUE MSG_ERRQUEUE
#else
#define SSF_MSG_ERRQUEUE 0
#endif

#ifdef __linux__
#define SSF_POLLRDHUP 0x2000
#else
#define SSF_POLLRDHUP 0
#endif

#ifdef AF_UNIX
#define SSF_AF_UNIX AF_UNIX
#else
#define SSF_AF_UNIX -1
#endif

/* Of a compiled class with a __dict__. It is made again when it is needed; where there is none,
 * methods are found faster. */
#define SSF_DROP_DICT(instance) Py_CLEAR((instance)->__dict__)
#define SSF_HAS_DICT(instance) ((instance)->__dict__ != NULL)

#ifdef Py_GIL_DISABLED
#define SSF_NO_GIL 1
#else
#define SSF_NO_GIL 0
#endif

static inline ptrdiff_t ssf_result(ptrdiff_t result) {
    return result < 0 ? -(ptrdiff_t)errno : result;
}

/* "192.0.2.1", not terminated; its length. A tenth of what inet_ntop() costs in glibc. */
static inline int ssf_ipv4_text(const unsigned char *octets, char *text) {
    char *end = text;
    int i;
    for (i = 0; i < 4; i++) {
        if (i > 0)
            *end++ = '.';
        if (octets[i] >= 100)
            *end++ = (char)('0' + octets[i] / 100);
        if (octets[i] >= 10)
            *end++ = (char)('0' + octets[i] / 10 % 10);
        *end++ = (char)('0' + octets[i] % 10);
    }
    return (int)(end - text);
}

/* A connection taken from a listener, which blocks or does not; -ENOSYS where that takes two calls. */
#if defined(__linux__) && !defined(SSF_PORTABLE)
#define SSF_ACCEPTS 1
static inline int ssf_accept(int fd, ssf_packet *from, int blocking) {
    from->address_length = sizeof from->address;
    return (int)ssf_result(accept4(fd, (struct sockaddr *)&from->address, &from->address_length,
                                   SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK)));
}
#else
#define SSF_ACCEPTS 0
static inline int ssf_accept(int fd, ssf_packet *from, int blocking) { return -ENOSYS; }
#endif

/* A part of a file sent from the kernel's cache; -ENOSYS elsewhere than on Linux. */
static inline ptrdiff_t ssf_sendfile(int fd, int file, long long offset, size_t size) {
#ifdef __linux__
    off_t from = (off_t)offset;
    return ssf_result(sendfile(fd, file, &from, size));
#else
    return -ENOSYS;
#endif
}

/* The beginning of a file if it is in the kernel's cache, without waiting for a disk: preadv2(2)
 * with RWF_NOWAIT, by its number since that of glibc is younger than some systems. */
static inline ptrdiff_t ssf_read_cached(int file, char *data, size_t size) {
#if defined(__linux__) && defined(SYS_preadv2)
    struct iovec whole = {data, size};
    return ssf_result(syscall(SYS_preadv2, file, &whole, 1L, 0L, 0L, 8));
#else
    return -ENOSYS;
#endif
}

/* The size of a regular file, or -1. */
static inline long long ssf_regular_size(int file) {
    struct stat status;
    if (fstat(file, &status) != 0 || (status.st_mode & S_IFMT) != S_IFREG)
        return -1;
    return (long long)status.st_size;
}

/* What the greenlets' hub needs is there in a portable build too, for their sockets alone. */
#ifndef _WIN32

static inline long long ssf_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int ssf_poll(ssf_pollfd *fds, int count, int milliseconds) {
    return (int)ssf_result(poll(fds, (nfds_t)count, milliseconds));
}

/* SO_RCVTIMEO or SO_SNDTIMEO in nanoseconds: how long a blocking call waits; -1 for no limit. */
static inline long long ssf_wait_limit(int fd, short events) {
    struct timeval limit = {0, 0};
    socklen_t length = sizeof limit;
    int option = events & POLLIN ? SO_RCVTIMEO : SO_SNDTIMEO;
    if (getsockopt(fd, SOL_SOCKET, option, &limit, &length) < 0 || length != sizeof limit
        || (limit.tv_sec == 0 && limit.tv_usec == 0))
        return -1;
    return (long long)limit.tv_sec * 1000000000 + (long long)limit.tv_usec * 1000;
}

/* Makes a descriptor non-blocking for one call: it belongs to whoever shares it, too. Returns what
 * ssf_block_again() needs. */
static inline int ssf_unblock(int fd) {
    int flags = (int)ssf_result(fcntl(fd, F_GETFL));
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    return flags;
}

static inline void ssf_block_again(int fd, int flags) {
    if (!(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags);
}

/* ssf_sendfile(), but -EAGAIN if there is no room. */
static inline ptrdiff_t ssf_sendfile_now(int fd, int file, long long offset, size_t size) {
    int flags = ssf_unblock(fd);
    ptrdiff_t sent = flags < 0 ? flags : ssf_sendfile(fd, file, offset, size);
    if (flags >= 0)
        ssf_block_again(fd, flags);
    return sent;
}

/* ssf_accept(), but -EAGAIN if there is no connection. */
static inline int ssf_accept_now(int fd, ssf_packet *from) {
    int flags = ssf_unblock(fd), accepted = flags < 0 ? flags : ssf_accept(fd, from, 1);
    if (flags >= 0)
        ssf_block_again(fd, flags);
    return accepted;
}

static inline ptrdiff_t ssf_recv(int fd, char *data, size_t size, int flags) {
    return ssf_result(recv(fd, data, size, flags));
}

static inline ptrdiff_t ssf_send(int fd, const char *data, size_t size, int flags) {
    return ssf_result(send(fd, data, size, flags));
}

static inline int ssf_shut_down(int fd) { return (int)ssf_result(shutdown(fd, SHUT_RDWR)); }
static inline int ssf_duplicate(int fd) { return (int)ssf_result(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }
static inline void ssf_close(int fd) { close(fd); }

#else

static inline long long ssf_monotonic(void) { return 0; }
static inline int ssf_poll(ssf_pollfd *fds, int count, int milliseconds) { return -ENOSYS; }
static inline long long ssf_wait_limit(int fd, short events) { return -1; }
static inline int ssf_unblock(int fd) { return -ENOSYS; }
static inline void ssf_block_again(int fd, int flags) {}
static inline ptrdiff_t ssf_sendfile_now(int fd, int f, long long o, size_t n) { return -ENOSYS; }
static inline int ssf_accept_now(int fd, ssf_packet *from) { return -ENOSYS; }
static inline ptrdiff_t ssf_recv(int fd, char *d, size_t n, int flags) { return -ENOSYS; }
static inline ptrdiff_t ssf_send(int fd, const char *d, size_t n, int flags) { return -ENOSYS; }
static inline int ssf_shut_down(int fd) { return -ENOSYS; }
static inline int ssf_duplicate(int fd) { return -ENOSYS; }
static inline void ssf_close(int fd) {}

#endif

#if SSF_NATIVE

static inline ptrdiff_t ssf_sendto(int fd, const char *data, size_t size,
                                   const struct sockaddr_storage *address, socklen_t length) {
    return ssf_result(sendto(fd, data, size, MSG_DONTWAIT,
                             (const struct sockaddr *)address, length));
}

/* Whether a datagram that nobody took makes a later call on the socket fail. */
static inline int ssf_reports_errors(int fd) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) == 0)
        return 1;
#ifdef IP_RECVERR
    int four = 0, six = 0;
    length = sizeof four;
    getsockopt(fd, IPPROTO_IP, IP_RECVERR, &four, &length);
    length = sizeof six;
    getsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &six, &length);
    return four || six;
#else
    return 0;
#endif
}

/* Discards the queue of such errors, without which poll(2) would find the socket ready for ever;
 * how many there were. */
static inline int ssf_discard_errors(int fd) {
    int discarded = 0;
#ifdef MSG_ERRQUEUE
    char nothing;
    while (recv(fd, &nothing, sizeof nothing, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
        discarded++;
#endif
    return discarded;
}

/* The path of a Unix address, not terminated; NULL where the sender has no address at all. */
static inline const char *ssf_unix_path(const ssf_packet *packet, ptrdiff_t *length) {
    *length = (ptrdiff_t)packet->address_length - (ptrdiff_t)offsetof(struct sockaddr_un, sun_path);
    return packet->address_length ? ((const struct sockaddr_un *)&packet->address)->sun_path : NULL;
}

/* Receives what is waiting, at most `count` packets of at most `size` bytes. */
static inline int ssf_receive_batch(int fd, ssf_packet *packets, int count, size_t size) {
#ifdef __linux__
    struct mmsghdr messages[SSF_BATCH];
    struct iovec parts[SSF_BATCH];
    int i, received;
    for (i = 0; i < count; i++) {
        memset(&messages[i], 0, sizeof messages[i]);
        parts[i].iov_base = packets[i].data;
        parts[i].iov_len = size;
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = &packets[i].address;
        messages[i].msg_hdr.msg_namelen = sizeof packets[i].address;
    }
    received = recvmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT, NULL);
    if (received < 0)
        return -errno;
    for (i = 0; i < received; i++) {
        packets[i].length = messages[i].msg_len;
        packets[i].flags = messages[i].msg_hdr.msg_flags;
        packets[i].address_length = messages[i].msg_hdr.msg_namelen;
    }
    return received;
#else
    int received;
    for (received = 0; received < count; received++) {
        ssf_packet *packet = &packets[received];
        struct iovec part = {packet->data, size};
        struct msghdr message = {0};
        message.msg_name = &packet->address;
        message.msg_namelen = sizeof packet->address;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        packet->length = ssf_result(recvmsg(fd, &message, MSG_DONTWAIT));
        if (packet->length < 0)
            return received > 0 ? received : (int)packet->length;
        packet->flags = message.msg_flags;
        packet->address_length = message.msg_namelen;
    }
    return received;
#endif
}

#else

static inline ptrdiff_t ssf_sendto(int fd, const char *d, size_t n,
                                   const struct sockaddr_storage *a, socklen_t l) {
    return -ENOSYS;
}
static inline const char *ssf_unix_path(const ssf_packet *p, ptrdiff_t *n) { return NULL; }
static inline int ssf_reports_errors(int fd) { return 0; }
static inline int ssf_discard_errors(int fd) { return 0; }
static inline int ssf_receive_batch(int fd, ssf_packet *p, int count, size_t n) { return -ENOSYS; }

#endif
#endif
