/* What the parts of hv-load share; main.c describes the program. */
#ifndef HARNESS_LOAD_H
#define HARNESS_LOAD_H

#define _GNU_SOURCE   /* memmem */
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define RECORD_SIZE 24
#define MAX_TARGETS 16384
#define MAX_WORKERS 1024
#define MAX_TARGET_CONNECTIONS 64
#define MAX_CONNECTIONS 16384
#define MAX_HEADER 2048
#define VALUE_SIZE 512    /* of a value in Redis */
#define NEVER UINT32_MAX

enum status { OK, WRONG_ANSWER, CONNECTION_LOST, UNANSWERED };
enum protocol { HTTP, RESP, ECHO, JOB };
enum progress { INCOMPLETE, COMPLETE, BAD };

struct record {
    uint32_t target : 24, status : 8;
    uint32_t delay, sent, done;   /* us since the schedule; see main.c */
    int64_t scheduled;            /* ns */
};
_Static_assert(sizeof(struct record) == RECORD_SIZE, "the reader expects this size");

struct request {
    struct record record;
    struct request *next;     /* in the target's queue */
};

struct connection {
    int fd;                   /* -1: unused */
    int connected;
    int watched;              /* by epoll */
    int awaits_space;         /* epoll reports when more can be sent */
    unsigned target;
    struct request *request;  /* NULL: idle */
    char out[VALUE_SIZE + 128];
    size_t out_size, out_sent;
    char header[MAX_HEADER];
    size_t header_size;
    int64_t body_left;        /* -1: the header is incomplete */
    int is_set;
    struct connection *next;  /* idle ones of a target, or unused ones */
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
    unsigned worker;          /* the process that sends its requests */
};

extern struct target targets[MAX_TARGETS];
extern unsigned target_count, worker;        /* worker: the number of this process */
extern int64_t start_ns, ramp_ns, end_ns, drain_ns;   /* ramp and end since the start */

/* main.c */
_Noreturn void die(const char *format, ...);
int64_t clock_ns(clockid_t id);
void start_load(int64_t delay_ns);
void run_load(void);

/* schedule.c */
uint64_t next_random(uint64_t *state);
double uniform(uint64_t *state);                /* in [0, 1) */
void schedule_all(void);
int64_t next_arrival(void);                     /* ns since the start; INT64_MAX: none is left */
unsigned take_arrival(void);                    /* the target of the next one; schedules another */

/* records.c */
extern long outstanding, request_count;
struct request *new_request(void);
uint32_t since_schedule(const struct request *request, int64_t now);   /* us, below NEVER */
void finish(struct request *request, enum status status);
void write_records(void);

/* protocols.c */
void compose(struct connection *connection);
enum progress read_answer(struct connection *connection, const char *data, size_t size);

/* connections.c */
void limit_connections(void);
void open_epoll(int timer_fd);
void wait_for_events(void);
void dispatch(unsigned index);

/* confine.c */
void drop_rights(void);
void filter_system_calls(void);

/* workers.c */
void run_workers(unsigned count, const int *cpus);

#endif
