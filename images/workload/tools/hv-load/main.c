/*
 * An open-loop load generator: requests arrive on a schedule, whether or not earlier ones are
 * answered. A request's latency therefore starts at its scheduled arrival.
 *
 * hv-load SEED RAMP SECONDS DRAIN [CPU]... < targets > records
 *
 * During RAMP the rate rises linearly from 0, then it is constant for SECONDS. After that, hv-load
 * waits up to DRAIN seconds for answers. Each CPU gets a process, and the targets are shared out to
 * them. Without a CPU there is one process, anywhere. One line of targets for each server:
 *
 *     PROTOCOL ADDRESS PORT RATE ARRIVALS
 *
 * PROTOCOL: "http" (GET of /4k or /32k), "resp" (Redis: 90 % GET, 10 % SET of 512 bytes, of 10,000
 * keys), "echo" (one byte), "job" (a line feed; the answer is a line with an exit status).
 * RATE: arrivals a second. ARRIVALS: "poisson" or "periodic".
 *
 * Records are written at the end, in no order: see struct record. They have the machine's byte
 * order: target (line of the input, from 0; 24 bits) and status (8 bits); delay, sent and done as
 * uint32 in us since the schedule; scheduled as int64 in ns of CLOCK_MONOTONIC. delay: hv-load
 * noticed the arrival. sent: it wrote the first byte, on a connection that was free. done: the
 * answer was complete, or failed. What did not happen is NEVER.
 *
 * Standard error has "started MONOTONIC REALTIME" (ns): the first moment of the ramp of all
 * processes, and at the end "cpu US of US" (CPU time, and the length of RAMP and SECONDS) and
 * "records N" of each process. A message that starts with "hv-load:" is an error.
 *
 * A connection carries one request at a time. When all are busy, another one is opened, up to
 * MAX_TARGET_CONNECTIONS, or fewer for many targets; further requests wait, and their clock runs.
 * Servers are untrusted: a process gives up its rights before it reads an answer.
 */
#include "load.h"

#include <arpa/inet.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>

#define MAX_REQUESTS 1e8

struct target targets[MAX_TARGETS];
unsigned target_count, worker;
int64_t start_ns, ramp_ns, end_ns, drain_ns;

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

/* The request of the next arrival, which is noticed at `now`. */
static struct request *arrive(int64_t now)
{
    struct request *request = new_request();

    request->record.scheduled = start_ns + next_arrival();
    request->record.target = take_arrival();
    request->record.delay = since_schedule(request, now);
    return request;
}

static void take_arrivals(void)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC), at;

    while ((at = next_arrival()) != INT64_MAX && start_ns + at <= now) {
        struct request *request = arrive(now);
        struct target *target = &targets[request->record.target];

        if (target->last)
            target->last->next = request;
        else
            target->first = request;
        target->last = request;
        dispatch(request->record.target);
    }
}

static void generate(int timer_fd)
{
    int64_t deadline = start_ns + end_ns + drain_ns, armed = 0;

    for (;;) {
        take_arrivals();
        int64_t next = next_arrival();

        if (next == INT64_MAX && !outstanding)
            return;
        next = next == INT64_MAX ? deadline : start_ns + next;
        if (next != armed) {
            struct itimerspec at = {
                .it_value = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000},
            };

            timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
            armed = next;
        }
        if (clock_ns(CLOCK_MONOTONIC) >= deadline)
            break;
        wait_for_events();
    }
    /* Those that it notices only now, as it was too slow, are unanswered, too. */
    while (next_arrival() != INT64_MAX)
        arrive(clock_ns(CLOCK_MONOTONIC));
}

/* Sets and prints the moment at which the ramp begins. */
void start_load(int64_t delay_ns)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC), realtime = clock_ns(CLOCK_REALTIME);

    start_ns = now + delay_ns;
    fprintf(stderr, "started %lld %lld\n", (long long)start_ns, (long long)(realtime + delay_ns));
}

/* The load of this process's targets, and its records. */
void run_load(void)
{
    int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

    limit_connections();
    open_epoll(timer_fd);
    schedule_all();
    drop_rights();
    filter_system_calls();
    if (!start_ns)
        start_load(0);
    generate(timer_fd);
    fprintf(stderr, "cpu %lld of %lld\nrecords %ld\n",
            (long long)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000,
            (long long)end_ns / 1000, request_count);
    write_records();
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
        if (strlen(line) == sizeof line - 1)
            die("target %u is too long", target_count);
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
        target->times = seed + target_count * 0x632be59bd9b4e019u;
        target->contents = ~target->times;
        expected += target->rate * seconds;
        target_count++;
    }
    if (expected > MAX_REQUESTS)
        die("%.0f requests are more than %.0f", expected, MAX_REQUESTS);
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
    static int cpus[MAX_WORKERS];

    if (argc < 5 || argc > 5 + MAX_WORKERS) {
        fprintf(stderr, "usage: hv-load SEED RAMP SECONDS DRAIN [CPU]... < targets > records\n");
        return 2;
    }
    uint64_t seed = (uint64_t)parse(argv[1], 0, 9e15, "SEED");
    double ramp = parse(argv[2], 0, 3600, "RAMP"), seconds = parse(argv[3], 0.1, 86400, "SECONDS");

    drain_ns = (int64_t)(parse(argv[4], 0, 3600, "DRAIN") * 1e9);
    for (int i = 5; i < argc; i++) {
        double cpu = parse(argv[i], 0, CPU_SETSIZE - 1, "CPU");

        cpus[i - 5] = (int)cpu;
        if (cpu != cpus[i - 5])
            die("CPU must be a whole number, not %s", argv[i]);
    }
    ramp_ns = (int64_t)(ramp * 1e9);
    end_ns = ramp_ns + (int64_t)(seconds * 1e9);
    read_targets(seed, ramp / 2 + seconds);
    if (argc > 5)
        run_workers(argc - 5, cpus);
    else
        run_load();
    return 0;
}
