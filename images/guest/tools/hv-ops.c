/*
 * hv-ops CASE --ops N --batches B [--mib M]
 *
 * Times what a kernel does for a process, B batches of N operations, and prints JSON as hv-exits
 * does: {"case","ops","tsc_khz","batches":[{"ns","cycles"},...]}.
 *
 *   syscall   getppid, the cheapest system call
 *   switch    a byte to another process on the same CPU and back: two context switches
 *   wake      the same with the other process on another CPU, which sleeps meanwhile
 *   fault     the first touch of a page; the first batch is of memory that nobody has used since
 *             boot as far as there is such memory, the others are of the same memory again
 *   chase     loads that each depend on the one before, one a page, in a random order over M MiB
 *   timer     how late a sleep of one millisecond ends; a batch has no "cycles" but
 *             {"ns": sum, "p50", "p99", "max"} of its N sleeps
 */
#define _GNU_SOURCE
#include "measure.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ull
#define SLEEP_NS 1000000
#define MOST_OPS (1ull << 32)

static uint64_t mib = 16;

static void die(const char *what)
{
    fprintf(stderr, "hv-ops: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void do_syscalls(uint64_t ops)
{
    while (ops--)
        syscall(SYS_getppid);
}

/* -- two processes ---------------------------------------------------------------------------- */

static int ours[2], theirs[2];

static void pass(int from, int to)
{
    char byte;

    if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1)
        exit(0);   /* the other one has ended */
}

static void go_to_cpu(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        die("sched_setaffinity");
}

/* The first CPU of ours, and the one after it if there is to be another. */
static void choose_cpus(int *first, int *second)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set))
        die("sched_getaffinity");
    *first = *second = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE && *second < 0; cpu++)
        if (CPU_ISSET(cpu, &set))
            *(*first < 0 ? first : second) = cpu;
}

static void start_echo(int apart)
{
    int first, second;
    pid_t parent = getpid();

    choose_cpus(&first, &second);
    if (apart && second < 0) {
        errno = ENODEV;
        die("wake needs two CPUs");
    }
    if (pipe(ours) || pipe(theirs))
        die("pipe");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            exit(0);
        go_to_cpu(apart ? second : first);
        close(ours[1]);
        close(theirs[0]);
        for (;;)
            pass(ours[0], theirs[1]);
    }
    go_to_cpu(first);
    close(ours[0]);
    close(theirs[1]);
}

static void do_round_trips(uint64_t ops)
{
    char byte = 0;

    while (ops--)
        if (write(ours[1], &byte, 1) != 1 || read(theirs[0], &byte, 1) != 1)
            die("round trip");
}

/* -- memory ----------------------------------------------------------------------------------- */

static char *pages(uint64_t count)
{
    char *area = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED)
        die("memory");
    madvise(area, count * PAGE, MADV_NOHUGEPAGE);   /* an operation is one page, everywhere */
    return area;
}

static char *fresh;

static void do_faults(uint64_t ops)
{
    for (uint64_t i = 0; i < ops; i++)
        *(volatile char *)(fresh + i * PAGE) = 1;
}

static void **chain;

/* A single cycle over all pages (Sattolo), at another cache line in each. */
static void make_chain(void)
{
    uint64_t count = mib << 20 >> 12, seed = 1;
    char *area = pages(count);
    uint32_t *order = malloc(count * sizeof *order);

    if (!order)
        die("memory");
    for (uint64_t i = 0; i < count; i++)
        order[i] = i;
    for (uint64_t i = count - 1; i; i--) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t j = (seed >> 33) % i;
        uint32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = order[i], next = order[(i + 1) % count];
        *(void **)(area + page * PAGE + page % 64 * 64) = area + next * PAGE + next % 64 * 64;
    }
    chain = (void **)(area + order[0] * PAGE + order[0] % 64ull * 64);
    free(order);
}

static void do_chase(uint64_t ops)
{
    void **at = chain;

    while (ops--)
        at = *(void *volatile *)at;
    chain = at;
}

/* -- timers ----------------------------------------------------------------------------------- */

static int later(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void time_sleeps(long number, uint64_t ops, uint64_t *late)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < ops; i++) {
        struct timespec until, now;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += SLEEP_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
            ;
        clock_gettime(CLOCK_MONOTONIC, &now);
        late[i] = (now.tv_sec - until.tv_sec) * 1000000000ll + now.tv_nsec - until.tv_nsec;
        sum += late[i];
    }
    qsort(late, ops, sizeof *late, later);
    printf("%s{\"ns\": %llu, \"p50\": %llu, \"p99\": %llu, \"max\": %llu}", number ? ", " : "",
           (unsigned long long)sum, (unsigned long long)late[ops / 2],
           (unsigned long long)late[ops * 99 / 100], (unsigned long long)late[ops - 1]);
}

static void measure_timer(uint64_t ops, long batches)
{
    uint64_t *late = malloc(ops * sizeof *late);

    if (!late)
        die("memory");
    prctl(PR_SET_TIMERSLACK, 1);   /* ns; else the kernel may join timers within 50 us */
    for (long i = 0; i < batches; i++)
        time_sleeps(i, ops, late);
}

/* -- all -------------------------------------------------------------------------------------- */

static void measure(void (*run)(uint64_t), uint64_t ops, long batches)
{
    for (long i = 0; i < batches; i++) {
        if (run == do_faults)
            fresh = pages(ops);
        uint64_t ns = ns_now(), tsc = tsc_now();
        run(ops);
        uint64_t cycles = tsc_now() - tsc;
        print_batch(i, ns_now() - ns, cycles);
        if (run == do_faults)
            munmap(fresh, ops * PAGE);
    }
}

static int usage(const char *what)
{
    fprintf(stderr,
            "hv-ops: %s\nusage: hv-ops syscall|switch|wake|fault|chase|timer --ops N --batches B"
            " [--mib M]\n", what);
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t ops = 0, batches = 0;
    void (*run)(uint64_t) = NULL;

    if (argc < 2 || argc % 2)
        return usage("a case and options with values are needed");
    for (int i = 2; i < argc; i += 2) {
        int ok = 0;
        if (!strcmp(argv[i], "--ops"))
            ok = number(argv[i + 1], 1, MOST_OPS, &ops);
        else if (!strcmp(argv[i], "--batches"))
            ok = number(argv[i + 1], 1, 1000000, &batches);
        else if (!strcmp(argv[i], "--mib"))
            ok = number(argv[i + 1], 1, 1 << 20, &mib);
        if (!ok)
            return usage(argv[i]);
    }
    if (!ops || !batches)
        return usage("--ops and --batches are needed");

    const char *name = argv[1];
    if (!strcmp(name, "syscall")) {
        run = do_syscalls;
    } else if (!strcmp(name, "switch") || !strcmp(name, "wake")) {
        run = do_round_trips;
        start_echo(!strcmp(name, "wake"));
    } else if (!strcmp(name, "fault")) {
        run = do_faults;
    } else if (!strcmp(name, "chase")) {
        run = do_chase;
        make_chain();
    } else if (strcmp(name, "timer")) {
        return usage("no such case");
    }
    if (run != do_round_trips)
        stay_here();
    if (run && run != do_faults)
        run(ops / 10 + 1);   /* warm-up */
    print_head(name, ops);
    if (run)
        measure(run, ops, batches);
    else
        measure_timer(ops, batches);
    return print_tail();
}
