/* Opening connections.

   The client closes first, so each closed connection leaves a TIME_WAIT on the client's side for a
   minute, and one pair of addresses has only some 28,000 ports. Closing with a reset would avoid it,
   but servers would see ECONNRESET where real clients send a FIN. So connections to 127.0.0.1 come
   from 127.0.1.1 to 127.0.1.64 in turn (Linux owns the whole of 127/8; elsewhere the bind fails and
   the one address has to do). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "stream.h"

#define SOURCES 64

static int open_socket(int family)
{
#ifdef SOCK_NONBLOCK
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
#else
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd >= 0)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
#endif
}

static void choose_source(int fd)
{
#ifdef IP_BIND_ADDRESS_NO_PORT
    static unsigned turn;
    int on = 1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000101u + turn++ % SOURCES);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&source, sizeof source))
        return;
#else
    (void)fd;
#endif
}

int dial(const struct settings *set, int most)
{
    int on = 1, fd = open_socket(set->family);
    if (fd < 0)
        return -1;
    if (set->family == AF_INET) {
        choose_source(fd);
        if (most != 1)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (connect(fd, (const struct sockaddr *)&set->address, set->address_length) == 0
        || errno == EINPROGRESS)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}
