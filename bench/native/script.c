/* What is said and what must come back: a line and its echo, a body up or down, an HTTP GET. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "stream.h"

#define LARGEST_HEADER 4096          /* of an HTTP answer */

/* An echoed line carries the number of its connection, so that a mix-up is seen. */
static size_t write_line(char *text, const struct connection *c, size_t size)
{
    char stamp[16];
    fill_pattern(text, size);
    int length = snprintf(stamp, sizeof stamp, "%07d ", c->number);
    if ((size_t)length < size)
        memcpy(text, stamp, (size_t)length);
    text[size - 1] = '\n';
    return size;
}

static size_t write_request(char *text, const struct connection *c, const struct settings *set)
{
    if (set->traffic == ECHO)
        return write_line(text, c, set->size);
    if (set->traffic == HTTP) {
        memcpy(text, set->request, set->request_size);
        return set->request_size;
    }
    size_t header = (size_t)sprintf(text, "%c %zu\n", set->traffic == UP ? 'P' : 'G', set->size);
    if (set->traffic == DOWN)
        return header;
    fill_pattern(text + header, set->size);
    return header + set->size;
}

static size_t write_reply(char *text, const struct connection *c, const struct settings *set)
{
    if (set->traffic == ECHO)
        return write_line(text, c, set->size);
    if (set->traffic == UP)
        return (size_t)sprintf(text, "ok\n");
    if (set->traffic == HTTP)
        memcpy(text, set->body, set->size);
    else
        fill_pattern(text, set->size);
    return set->size;
}

static void repeat(char *text, size_t size, int times)
{
    for (int i = 1; i < times; i++)
        memcpy(text + (size_t)i * size, text, size);
}

int script_prepare(struct connection *c, const struct settings *set)
{
    size_t room = (set->size + LARGEST_HEADER) * (size_t)(c->window + 1);
    c->request = malloc(room + 2 * set->request_size);
    c->reply = malloc(room);
    c->started = calloc((size_t)c->window, sizeof *c->started);
    if (!c->request || !c->reply || !c->started)
        return -1;
    c->request_size = write_request(c->request, c, set);
    c->reply_size = write_reply(c->reply, c, set);
    repeat(c->request, c->request_size, c->window + 1);
    if (set->traffic != HTTP)
        repeat(c->reply, c->reply_size, c->window + 1);
    return 0;
}

size_t script_expects(const struct connection *c, const struct settings *set)
{
    if (set->traffic == HTTP)
        return c->reply_size - c->reply_at + (c->in_body ? 0 : LARGEST_HEADER - c->header_size);
    return (size_t)c->in_flight * c->reply_size - c->reply_at;
}

static bool says_close(const char *answer, size_t size)
{
    char *end = memmem(answer, size, "\r\n\r\n", 4);
    size_t head = end ? (size_t)(end - answer) : size;
    return memcmp(answer, "HTTP/1.1", 8) || memmem(answer, head, "onnection: close", 16);
}

/* The header, of unknown length, is kept behind the body in `reply`. Returns how many of the bytes
   belong to it, or -1 when it is too long or says something else than 200. */
static ssize_t take_header(struct connection *c, const char *bytes, size_t count)
{
    char *header = c->reply + c->reply_size;
    size_t before = c->header_size, room = LARGEST_HEADER - before;
    size_t some = count < room ? count : room;
    memcpy(header + before, bytes, some);
    char *end = memmem(header, before + some, "\r\n\r\n", 4);
    c->header_size = end ? (size_t)(end + 4 - header) : before + some;
    c->in_body = end != NULL;
    if (!end)
        return c->header_size < LARGEST_HEADER ? (ssize_t)count : -1;
    c->ends = says_close(header, c->header_size);
    if (c->header_size < 12 || memcmp(header, "HTTP/1.", 7) || memcmp(header + 8, " 200", 4))
        return -1;
    return (ssize_t)(c->header_size - before);
}

/* The body is compared as it comes: a load that also kept it would be slower than the servers. */
static int check_http(struct connection *c, const char *bytes, size_t count)
{
    ssize_t header = c->in_body ? 0 : take_header(c, bytes, count);
    if (header < 0)
        return -1;
    bytes += header;
    count -= (size_t)header;
    if (count > c->reply_size - c->reply_at || memcmp(bytes, c->reply + c->reply_at, count))
        return -1;
    c->reply_at += count;
    if (!c->in_body || c->reply_at < c->reply_size)
        return 0;
    c->reply_at = c->header_size = 0;
    c->in_body = false;
    return 1;
}

int script_check(struct connection *c, const char *bytes, size_t count, const struct settings *set)
{
    if (set->traffic == HTTP)
        return check_http(c, bytes, count);
    if (count > script_expects(c, set) || memcmp(bytes, c->reply + c->reply_at, count))
        return -1;
    size_t whole = (c->reply_at + count) / c->reply_size;
    c->reply_at = (c->reply_at + count) % c->reply_size;
    return (int)whole;
}
