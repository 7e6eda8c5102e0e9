/* How a connection's bytes are sent and received: as they are, or with BENCH_TLS over TLS, where each
   connection shakes hands anew. Results and errno are those of send() and recv(). */
#ifndef BENCH_TLS_H
#define BENCH_TLS_H

#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef BENCH_TLS

#include <netinet/tcp.h>
#include <openssl/ssl.h>

typedef SSL *session;

static session open_session(int fd)
{
    static SSL_CTX *context;
    if (!context && (context = SSL_CTX_new(TLS_client_method())))
        SSL_CTX_set_mode(context,
                         SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL *ssl = context ? SSL_new(context) : NULL;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* as most clients of TLS do */
    if (ssl) {
        SSL_set_fd(ssl, fd);
        SSL_set_connect_state(ssl);
    }
    return ssl;
}

static ssize_t result(session ssl, int count)
{
    int why = count > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl, count);
    if (why == SSL_ERROR_NONE)
        return count;
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (why != SSL_ERROR_SYSCALL)
        errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
    return -1;
}

#define put(fd, ssl, bytes, size) result(ssl, SSL_write(ssl, bytes, (int)(size)))
#define get(fd, ssl, bytes, size) result(ssl, SSL_read(ssl, bytes, (int)(size)))
#define waits_for_room(ssl) SSL_want_write(ssl)
#define has_more(ssl) (SSL_pending(ssl) > 0)

static void close_session(int fd, session ssl)
{
    SSL_shutdown(ssl);
    SSL_free(ssl);
    close(fd);
}

#else

typedef bool session;

#define open_session(fd) true
#define put(fd, session, bytes, size) send(fd, bytes, size, MSG_NOSIGNAL)
#define get(fd, session, bytes, size) recv(fd, bytes, size, 0)
#define waits_for_room(session) true
#define has_more(session) false
#define close_session(fd, session) close(fd)

#endif
#endif
