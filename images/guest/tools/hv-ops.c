/*
 * hv-ops CASE --ops N --batches B [--mib M]
 *
 * Times kernel services from a process, in B batches of N operations. Prints one JSON object:
 * {"case","ops","tsc_khz","batches":[{"ns","cycles"},...]}.
 *
 *   syscall         getppid, the cheapest system call
 *   context_switch  a pipe round trip of one byte to a process on the same CPU: two context
 *                   switches per operation
 *   wakeup          the same round trip to a process that sleeps on another CPU: two wake-ups
 *   page_fault      the first write to an anonymous page. The first batch gets memory that was
 *                   free since boot, if the kernel has any; later batches get the same memory again
 *   pointer_chase   dependent loads, one per page, in a random order over M MiB
 *   timer           the latency of a sleep of 1 ms: by how much it ends late. A batch has no
 *                   "cycles" but {"ns": sum, "p50", "p99", "max"} of its N sleeps, in ns
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
#define MAX_OPS (1ull << 32)

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

static int requests[2], replies[2];   /* pipes to and from the echo process */

static void echo_byte(int from, int to)
{
    char byte;

    if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1)
        exit(0);   /* the parent has ended */
}

static void pin_to_cpu(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        die("sched_setaffinity");
}

/* The first two CPUs of the affinity mask; -1 if there is none. */
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

static void start_echo(int other_cpu)
{
    int first, second;
    pid_t parent = getpid();

    choose_cpus(&first, &second);
    if (other_cpu && second < 0) {
        errno = ENODEV;
        die("wakeup needs two CPUs");
    }
    if (pipe(requests) || pipe(replies))
        die("pipe");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            exit(0);
        pin_to_cpu(other_cpu ? second : first);
        close(requests[1]);
        close(replies[0]);
        for (;;)
            echo_byte(requests[0], replies[1]);
    }
    pin_to_cpu(first);
    close(requests[0]);
    close(replies[1]);
}

static void do_round_trips(uint64_t ops)
{
    char byte = 0;

    while (ops--)
        if (write(requests[1], &byte, 1) != 1 || read(replies[0], &byte, 1) != 1)
            die("round trip");
}

/* -- memory ----------------------------------------------------------------------------------- */

static char *map_pages(uint64_t count)
{
    char *area = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED)
        die("memory");
    madvise(area, count * PAGE, MADV_NOHUGEPAGE);   /* an operation is one 4 KiB page */
    return area;
}

static char *untouched;

static void do_page_faults(uint64_t ops)
{
    for (uint64_t i = 0; i < ops; i++)
        *(volatile char *)(untouched + i * PAGE) = 1;
}

static void **chain;

/* One cycle over all pages (Sattolo's algorithm). Each page uses a different cache line, so that
 * the pages do not share a cache set. */
static void make_chain(void)
{
    uint64_t count = mib << 20 >> 12, seed = 1;
    char *area = map_pages(count);
    uint32_t *order = malloc(count * sizeof *order);

    if (!order)
        die("memory");
    for (uint64_t i = 0; i < count; i++)
        order[i] = i;
    for (uint64_t i = count - 1; i; i--) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t j = (seed >> 33) % i;
        uint32_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = order[i], next = order[(i + 1) % count];
        *(void **)(area + page * PAGE + page % 64 * 64) = area + next * PAGE + next % 64 * 64;
    }
    chain = (void **)(area + order[0] * PAGE + order[0] % 64ull * 64);
    free(order);
}

static void do_pointer_chase(uint64_t ops)
{
    void **element = chain;

    while (ops--)
        element = *(void *volatile *)element;
    chain = element;
}

/* -- timers ----------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void time_sleeps(long index, uint64_t ops, uint64_t *latencies)
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
        latencies[i] = (now.tv_sec - until.tv_sec) * 1000000000ll + now.tv_nsec - until.tv_nsec;
        sum += latencies[i];
    }
    qsort(latencies, ops, sizeof *latencies, compare);
    printf("%s{\"ns\": %llu, \"p50\": %llu, \"p99\": %llu, \"max\": %llu}", index ? ", " : "",
           (unsigned long long)sum, (unsigned long long)latencies[ops / 2],
           (unsigned long long)latencies[ops * 99 / 100], (unsigned long long)latencies[ops - 1]);
}

static void measure_timer(uint64_t ops, long batches)
{
    uint64_t *latencies = malloc(ops * sizeof *latencies);

    if (!latencies)
        die("memory");
    prctl(PR_SET_TIMERSLACK, 1);   /* ns; by the default, a timer may be 50 us late */
    for (long i = 0; i < batches; i++)
        time_sleeps(i, ops, latencies);
}

/* -- main ------------------------------------------------------------------------------------- */

static void measure(void (*run)(uint64_t), uint64_t ops, long batches)
{
    for (long i = 0; i < batches; i++) {
        if (run == do_page_faults)
            untouched = map_pages(ops);
        uint64_t ns = ns_now(), tsc = tsc_now();
        run(ops);
        uint64_t cycles = tsc_now() - tsc;
        print_batch(i, ns_now() - ns, cycles);
        if (run == do_page_faults)
            munmap(untouched, ops * PAGE);
    }
}

static int usage(const char *what)
{
    fprintf(stderr,
            "hv-ops: %s\nusage: hv-ops syscall|context_switch|wakeup|page_fault|pointer_chase|timer"
            " --ops N --batches B [--mib M]\n", what);
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t ops = 0, batches = 0;
    void (*run)(uint64_t) = NULL;

    if (argc < 2 || argc % 2)
        return usage("a case is required, and each option needs a value");
    for (int i = 2; i < argc; i += 2) {
        int ok = 0;
        if (!strcmp(argv[i], "--ops"))
            ok = parse_number(argv[i + 1], 1, MAX_OPS, &ops);
        else if (!strcmp(argv[i], "--batches"))
            ok = parse_number(argv[i + 1], 1, 1000000, &batches);
        else if (!strcmp(argv[i], "--mib"))
            ok = parse_number(argv[i + 1], 1, 1 << 20, &mib);
        if (!ok)
            return usage(argv[i]);
    }
    if (!ops || !batches)
        return usage("--ops and --batches are required");

    const char *name = argv[1];
    if (!strcmp(name, "syscall")) {
        run = do_syscalls;
    } else if (!strcmp(name, "context_switch") || !strcmp(name, "wakeup")) {
        run = do_round_trips;
        start_echo(!strcmp(name, "wakeup"));
    } else if (!strcmp(name, "page_fault")) {
        run = do_page_faults;
    } else if (!strcmp(name, "pointer_chase")) {
        run = do_pointer_chase;
        make_chain();
    } else if (strcmp(name, "timer")) {
        return usage("unknown case");
    }
    if (run != do_round_trips)
        pin_to_current_cpu();
    if (run && run != do_page_faults)
        run(ops / 10 + 1);   /* warm-up */
    print_header(name, ops);
    if (run)
        measure(run, ops, batches);
    else
        measure_timer(ops, batches);
    return print_footer();
}
