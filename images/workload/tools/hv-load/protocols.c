/* Requests and their answers. Every length in an answer is checked: servers are untrusted. */
#include "load.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAX_BODY (64 << 20)
#define KEYS 10000

void compose(struct connection *connection)
{
    struct target *target = &targets[connection->target];
    unsigned key = next_random(&target->contents) % KEYS;
    int length = 0, rest;
    size_t size = sizeof connection->out;

    switch (target->protocol) {
    case HTTP:
        length = snprintf(connection->out, size, "GET /%s HTTP/1.1\r\nHost: guest\r\n\r\n",
                          uniform(&target->contents) < 0.8 ? "4k" : "32k");
        break;
    case RESP:
        connection->is_set = uniform(&target->contents) < 0.1;
        if (!connection->is_set) {
            length = snprintf(connection->out, size, "GET key:%u\r\n", key);
            break;
        }
        /* an inline command, as the value has no spaces */
        length = snprintf(connection->out, size, "SET key:%u ", key);
        rest = VALUE_SIZE;
        memset(connection->out + length, 'a' + key % 26, rest);
        memcpy(connection->out + length + rest, "\r\n", 2);
        length += rest + 2;
        break;
    case ECHO:
        connection->out[0] = 'e';
        length = 1;
        break;
    case JOB:
        connection->out[0] = '\n';
        length = 1;
        break;
    }
    connection->out_size = length;
    connection->out_sent = connection->header_size = 0;
    connection->body_left = -1;
}

/* The first line or header in connection->header, up to and with `end`; NULL while incomplete. */
static char *header_end(struct connection *connection, const char *end)
{
    return memmem(connection->header, connection->header_size, end, strlen(end));
}

/* A decimal number of at most 10 digits; -1 for anything else. */
static int64_t number(const char *text, const char *end)
{
    int64_t value = 0;
    int digits = 0;

    while (text < end && *text == ' ')
        text++;
    for (; text < end && *text >= '0' && *text <= '9'; text++, digits++)
        if (digits == 10)
            return -1;
        else
            value = value * 10 + *text - '0';
    while (text < end && *text == ' ')
        text++;
    return digits && text == end ? value : -1;
}

/* Sets body_left once the header is complete. RFC 9112; only a Content-Length is understood. */
static enum progress read_http_header(struct connection *connection, size_t *used)
{
    char *end = header_end(connection, "\r\n\r\n"), *line = connection->header;
    int64_t size = -1;

    if (!end)
        return INCOMPLETE;
    *used = end + 4 - connection->header;
    if (*used < 12 || memcmp(line, "HTTP/1.1 200", 12))
        return BAD;
    while (line < end) {
        char *stop = memmem(line, end + 2 - line, "\r\n", 2);

        if (stop - line > 15 && !strncasecmp(line, "content-length:", 15))
            size = number(line + 15, stop);
        line = stop + 2;
    }
    if (size < 0 || size > MAX_BODY)
        return BAD;
    connection->body_left = size;
    return COMPLETE;
}

/* RESP: https://redis.io/docs/latest/develop/reference/protocol-spec/ */
static enum progress read_resp_header(struct connection *connection, size_t *used)
{
    char *end = header_end(connection, "\r\n");

    if (!end)
        return INCOMPLETE;
    *used = end + 2 - connection->header;
    if (connection->is_set) {
        connection->body_left = 0;
        return *used == 5 && !memcmp(connection->header, "+OK", 3) ? COMPLETE : BAD;
    }
    if (connection->header[0] != '$' || number(connection->header + 1, end) != VALUE_SIZE)
        return BAD;   /* an error, or a missing key */
    connection->body_left = VALUE_SIZE + 2;
    return COMPLETE;
}

/* `size` more bytes of an answer are in connection->header or, without a header, in `data`. */
enum progress read_answer(struct connection *connection, const char *data, size_t size)
{
    enum protocol protocol = targets[connection->target].protocol;
    enum progress progress = COMPLETE;
    size_t used = 0;

    if (connection->body_left < 0) {
        size_t space = MAX_HEADER - connection->header_size;
        size_t part = size < space ? size : space;

        memcpy(connection->header + connection->header_size, data, part);
        size_t before = connection->header_size;
        connection->header_size += part;
        if (protocol == HTTP) {
            progress = read_http_header(connection, &used);
        } else if (protocol == RESP) {
            progress = read_resp_header(connection, &used);
        } else {
            const char *answer = protocol == ECHO ? "e" : "0\n";
            size_t length = strlen(answer), have = connection->header_size;

            if (memcmp(connection->header, answer, have < length ? have : length))
                return BAD;
            progress = have < length ? INCOMPLETE : COMPLETE;
            used = length;
            connection->body_left = 0;
            if (progress == INCOMPLETE)
                connection->body_left = -1;
        }
        if (progress == INCOMPLETE)
            return connection->header_size == MAX_HEADER ? BAD : INCOMPLETE;
        if (progress == BAD)
            return BAD;
        data += used - before;
        size -= used - before;
    }
    if ((int64_t)size > connection->body_left)
        return BAD;   /* more than the answer */
    connection->body_left -= size;
    return connection->body_left ? INCOMPLETE : COMPLETE;
}

