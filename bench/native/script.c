/* What is said and what must come back: a line and its echo, a body up or down, an HTTP GET. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        return c->reply_size + LARGEST_HEADER - c->reply_at;
    return (size_t)c->in_flight * c->reply_size - c->reply_at;
}

static bool says_close(const char *answer, size_t size)
{
    char *end = memmem(answer, size, "\r\n\r\n", 4);
    size_t head = end ? (size_t)(end - answer) : size;
    return memcmp(answer, "HTTP/1.1", 8) || memmem(answer, head, "onnection: close", 16);
}

/* An HTTP answer has a header of unknown length: it is kept behind the body in `reply`, and is
   whole when it ends with the body. */
static int check_http(struct connection *c, const char *bytes, size_t count)
{
    char *answer = c->reply + c->reply_size;
    size_t body = c->reply_size;
    if (count > body + LARGEST_HEADER - c->reply_at)
        return -1;
    memcpy(answer + c->reply_at, bytes, count);
    c->reply_at += count;
    if (c->reply_at < body + 12 || memcmp(answer + c->reply_at - body, c->reply, body))
        return 0;
    c->ends = says_close(answer, c->reply_at);
    c->reply_at = 0;
    return memcmp(answer, "HTTP/1.", 7) || memcmp(answer + 8, " 200", 4) ? -1 : 1;
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
