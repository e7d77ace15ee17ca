/* The requests of this process, which become its records.
 *
 * They stay in memory until the load is over: to write them takes CPU time, and blocks while the
 * reader is slow. A request takes sizeof(struct request) bytes, however long its answer takes. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE (4096 / RECORD_SIZE)   /* records that reach a pipe together: PIPE_BUF */
#define BLOCK 2048

struct block {
    struct block *next;
    unsigned count;
    struct request requests[BLOCK];
};

long outstanding, request_count;
static struct block *first, *last;

struct request *new_request(void)
{
    if (!last || last->count == BLOCK) {
        struct block *block = malloc(sizeof *block);

        if (!block)
            die("out of memory after %ld requests", request_count);
        block->next = NULL;
        block->count = 0;
        if (last)
            last->next = block;
        else
            first = block;
        last = block;
    }
    struct request *request = &last->requests[last->count++];

    *request = (struct request){.record = {.status = UNANSWERED, .sent = NEVER, .done = NEVER}};
    request_count++;
    outstanding++;
    return request;
}

uint32_t since_schedule(const struct request *request, int64_t now)
{
    int64_t us = (now - request->record.scheduled) / 1000;

    return us < NEVER ? us : NEVER - 1;
}

void finish(struct request *request, enum status status)
{
    request->record.status = status;
    request->record.done = since_schedule(request, clock_ns(CLOCK_MONOTONIC));
    outstanding--;
}

/* Workers share the pipe, so a piece has whole records and is at most PIPE_BUF: see pipe(7). */
static void write_piece(const struct record *records, unsigned count)
{
    size_t size = count * sizeof *records;

    for (size_t at = 0; at < size;) {
        ssize_t written = write(STDOUT_FILENO, (const char *)records + at, size - at);

        if (written < 0 && errno != EINTR)
            die("records: %s", strerror(errno));
        at += written > 0 ? written : 0;
    }
}

void write_records(void)
{
    struct record piece[PIECE];
    unsigned count = 0;

    for (struct block *block = first; block; block = block->next)
        for (unsigned i = 0; i < block->count; i++) {
            piece[count++] = block->requests[i].record;
            if (count == PIECE) {
                write_piece(piece, count);
                count = 0;
            }
        }
    write_piece(piece, count);
}
