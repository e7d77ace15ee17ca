/* Requests that are not finished, and the records of those that are. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

long outstanding, written;
static struct request *free_requests;
static char buffer[1600 * RECORD_SIZE];
static size_t buffered;

void flush_records(void)
{
    for (size_t at = 0; at < buffered;) {
        ssize_t count = write(STDOUT_FILENO, buffer + at, buffered - at);

        if (count < 0 && errno != EINTR)
            die("records: %s", strerror(errno));
        at += count > 0 ? count : 0;
    }
    buffered = 0;
}

void finish(struct request *request, enum status status, int64_t done)
{
    request->record.status = status;
    request->record.done = done;
    memcpy(buffer + buffered, &request->record, RECORD_SIZE);
    buffered += RECORD_SIZE;
    written++;
    outstanding--;
    request->next = free_requests;
    free_requests = request;
    if (buffered == sizeof buffer)
        flush_records();
}

struct request *new_request(void)
{
    struct request *request = free_requests;

    if (request)
        free_requests = request->next;
    else if (!(request = malloc(sizeof *request)))
        die("out of memory");
    memset(request, 0, sizeof *request);
    outstanding++;
    return request;
}

