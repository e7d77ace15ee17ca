/* What the parts of hv-load share; main.c describes the program. */
#ifndef HARNESS_LOAD_H
#define HARNESS_LOAD_H

#define _GNU_SOURCE   /* memmem */
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define RECORD_SIZE 40
#define MAX_TARGETS 512
#define MAX_TARGET_CONNECTIONS 64
#define MAX_CONNECTIONS 4096
#define MAX_HEADER 8192
#define VALUE_SIZE 512    /* of a value in Redis */

enum status { OK, WRONG_ANSWER, CONNECTION_LOST, UNANSWERED };
enum protocol { HTTP, RESP, ECHO, JOB };
enum progress { INCOMPLETE, COMPLETE, BAD };

struct record {
    uint32_t target, status;
    int64_t scheduled, taken, sent, done;
};
_Static_assert(sizeof(struct record) == RECORD_SIZE, "the reader expects this size");

struct request {
    struct record record;
    struct request *next;     /* in the target's queue */
};

struct connection {
    int fd;                   /* -1: unused */
    int connected;
    unsigned target;
    struct request *request;  /* NULL: idle */
    char out[VALUE_SIZE + 128];
    size_t out_size, out_sent;
    char header[MAX_HEADER];
    size_t header_size;
    int64_t body_left;        /* -1: the header is incomplete */
    int is_set;
    struct connection *next;  /* idle connections of a target */
};

struct target {
    enum protocol protocol;
    struct sockaddr_in address;
    double rate;
    int periodic;
    uint64_t times, contents; /* states of the random schedule and of random requests */
    double arrivals;          /* expected number of arrivals at the next one */
    int64_t next;             /* ns since the start; INT64_MAX: none */
    struct request *first, *last;
    struct connection *idle;
    unsigned connections;
};

extern struct target targets[MAX_TARGETS];
extern unsigned target_count;
extern int64_t start_ns, ramp_ns, end_ns;   /* the last two since the start */

/* main.c */
_Noreturn void die(const char *format, ...);
int64_t clock_ns(clockid_t id);

/* schedule.c */
uint64_t next_random(uint64_t *state);
double uniform(uint64_t *state);                /* in [0, 1) */
void schedule_next(struct target *target);

/* records.c */
extern long outstanding, written;
struct request *new_request(void);
void finish(struct request *request, enum status status, int64_t done);
void flush_records(void);

/* protocols.c */
void compose(struct connection *connection);
enum progress read_answer(struct connection *connection, const char *data, size_t size);

/* connections.c */
void open_epoll(int timer_fd);
int wait_for_events(void);
void dispatch(unsigned index);
void finish_unanswered(void);

/* confine.c */
void confine(void);

#endif
