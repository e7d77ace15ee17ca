/*
 * An open-loop load generator: requests arrive on a schedule, whether or not earlier ones are
 * answered. A request's latency therefore starts at its scheduled arrival.
 *
 * hv-load SEED RAMP SECONDS DRAIN < targets > records
 *
 * During RAMP the rate rises linearly from 0, then it is constant for SECONDS. After that, hv-load
 * waits up to DRAIN seconds for answers. One line of targets for each server:
 *
 *     PROTOCOL ADDRESS PORT RATE ARRIVALS
 *
 * PROTOCOL: "http" (GET of /4k or /32k), "resp" (Redis: 90 % GET, 10 % SET of 512 bytes, of 10,000
 * keys), "echo" (one byte), "job" (a line feed; the answer is a line with an exit status).
 * RATE: arrivals a second. ARRIVALS: "poisson" or "periodic".
 *
 * A record is RECORD_SIZE bytes in the machine's order: target (line of the input, from 0) and
 * status as uint32; scheduled, taken (noticed by hv-load), sent (0: never) and done as int64, in ns
 * of CLOCK_MONOTONIC. Unanswered requests have done = 0.
 *
 * Standard error has "started MONOTONIC REALTIME" (ns) at the first moment of the ramp, and at the
 * end "cpu US of US", "records N". A message that starts with "hv-load:" is an error.
 *
 * A connection carries one request at a time. When all are busy, another one is opened, up to
 * MAX_TARGET_CONNECTIONS; further requests wait, and their clock runs. Servers are untrusted: the
 * process gives up its rights before it reads an answer.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MAX_RECORDS 20000000.0

struct target targets[MAX_TARGETS];
unsigned target_count;
int64_t start_ns, ramp_ns, end_ns;
static int timer_fd;

_Noreturn void die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "hv-load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

int64_t clock_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void take_arrivals(void)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC);

    for (unsigned i = 0; i < target_count; i++) {
        struct target *target = &targets[i];

        while (target->next != INT64_MAX && start_ns + target->next <= now) {
            struct request *request = new_request();

            request->record.target = i;
            request->record.scheduled = start_ns + target->next;
            request->record.taken = now;
            if (target->last)
                target->last->next = request;
            else
                target->first = request;
            target->last = request;
            schedule_next(target);
        }
        dispatch(i);
    }
}

/* Arms the timer. Returns 0 when nothing is left to wait for. */
static int wait_until_next(int64_t deadline)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < target_count; i++)
        next = targets[i].next < next ? targets[i].next : next;
    if (next == INT64_MAX && !outstanding)
        return 0;
    next = next == INT64_MAX ? deadline : start_ns + next;
    struct itimerspec at = {
        .it_value = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000},
    };
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    return clock_ns(CLOCK_MONOTONIC) < deadline;
}

static void generate(int64_t drain_ns)
{
    int64_t deadline = start_ns + end_ns + drain_ns;
    uint64_t expirations;

    for (;;) {
        take_arrivals();
        if (!wait_until_next(deadline))
            return;
        if (wait_for_events() && read(timer_fd, &expirations, sizeof expirations) < 0
            && errno != EAGAIN)
            die("timer: %s", strerror(errno));
    }
}

static void read_targets(uint64_t seed, double seconds)
{
    static const char *const protocols[] = {"http", "resp", "echo", "job"};
    char line[256], protocol[16], address[64], arrivals[16], rest;
    double expected = 0;
    unsigned port;

    while (fgets(line, sizeof line, stdin)) {
        struct target *target = &targets[target_count];
        unsigned known = 0;

        if (target_count == MAX_TARGETS)
            die("more than %d targets", MAX_TARGETS);
        if (sscanf(line, "%15s %63s %u %lf %15s %c", protocol, address, &port, &target->rate,
                   arrivals, &rest) != 5)
            die("target %u is not PROTOCOL ADDRESS PORT RATE ARRIVALS", target_count);
        while (known < 4 && strcmp(protocol, protocols[known]))
            known++;
        target->protocol = known;
        target->periodic = !strcmp(arrivals, "periodic");
        target->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
        if (known == 4)
            die("target %u has the unknown protocol %s", target_count, protocol);
        if (inet_pton(AF_INET, address, &target->address.sin_addr) != 1 || !port || port > 65535)
            die("target %u has the wrong address %s port %u", target_count, address, port);
        if (!(target->rate > 0 && target->rate <= 1e6))
            die("target %u has a rate that is not in (0, 1e6]", target_count);
        if (!target->periodic && strcmp(arrivals, "poisson"))
            die("target %u has the unknown arrivals %s", target_count, arrivals);
        target->times = seed + target_count * 0x632be59bd9b4e019;
        target->contents = ~target->times;
        expected += target->rate * seconds;
        target_count++;
    }
    if (expected > MAX_RECORDS)
        die("%.0f requests are more than %.0f", expected, MAX_RECORDS);
}

static double parse(const char *text, double low, double high, const char *name)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= low && value <= high))
        die("%s must be a number from %g to %g, not %s", name, low, high, text);
    return value;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: hv-load SEED RAMP SECONDS DRAIN < targets > records\n");
        return 2;
    }
    uint64_t seed = (uint64_t)parse(argv[1], 0, 9e15, "SEED");
    double ramp = parse(argv[2], 0, 3600, "RAMP"), seconds = parse(argv[3], 0.1, 86400, "SECONDS");
    int64_t drain_ns = (int64_t)(parse(argv[4], 0, 3600, "DRAIN") * 1e9);

    ramp_ns = (int64_t)(ramp * 1e9);
    end_ns = ramp_ns + (int64_t)(seconds * 1e9);
    read_targets(seed, ramp / 2 + seconds);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    open_epoll(timer_fd);
    for (unsigned i = 0; i < target_count; i++)
        schedule_next(&targets[i]);
    confine();
    start_ns = clock_ns(CLOCK_MONOTONIC);
    fprintf(stderr, "started %lld %lld\n", (long long)start_ns,
            (long long)clock_ns(CLOCK_REALTIME));
    generate(drain_ns);
    finish_unanswered();
    flush_records();
    fprintf(stderr, "cpu %lld of %lld\nrecords %ld\n",
            (long long)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000,
            (long long)(clock_ns(CLOCK_MONOTONIC) - start_ns) / 1000, written);
    return 0;
}
