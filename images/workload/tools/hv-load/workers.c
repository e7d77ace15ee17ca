/* One process for each CPU, as a thread would share memory that is written for each request. */
#include "load.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_NS (20 * 1000000LL)   /* to start one process, of which a slow host needs some */

static int by_rate(const void *one, const void *other)
{
    const struct target *a = *(struct target *const *)one, *b = *(struct target *const *)other;

    if (a->rate != b->rate)
        return a->rate < b->rate ? 1 : -1;
    return a < b ? -1 : 1;
}

/* Gives each target to the worker with the lowest rate so far, the busiest target first. */
static void share_out(unsigned count)
{
    static struct target *order[MAX_TARGETS];
    double rates[MAX_WORKERS] = {0};

    for (unsigned i = 0; i < target_count; i++)
        order[i] = &targets[i];
    qsort(order, target_count, sizeof *order, by_rate);
    for (unsigned i = 0; i < target_count; i++) {
        unsigned idlest = 0;

        for (unsigned w = 1; w < count; w++)
            if (rates[w] < rates[idlest])
                idlest = w;
        order[i]->worker = idlest;
        rates[idlest] += order[i]->rate;
    }
}

static _Noreturn void work(unsigned number, int cpu, pid_t parent)
{
    cpu_set_t set;

    worker = number;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        die("it cannot run on CPU %d: %s", cpu, strerror(errno));
    drop_rights();   /* before prctl(2), which a change of the user undoes */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        exit(1);
    run_load();
    exit(0);
}

/* Runs the load on these CPUs, and returns when all workers have ended well. */
void run_workers(unsigned count, const int *cpus)
{
    pid_t parent = getpid(), pids[MAX_WORKERS], pid;
    int status;

    share_out(count);
    start_load(count * START_NS);
    for (unsigned i = 0; i < count; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            die("fork: %s", strerror(errno));
        if (!pids[i])
            work(i, cpus[i], parent);
    }
    drop_rights();
    while ((pid = wait(&status)) > 0 || errno == EINTR) {
        unsigned i = 0;

        if (pid < 0 || !status)
            continue;
        while (i < count && pids[i] != pid)
            i++;
        /* the others are killed when this process ends */
        if (WIFSIGNALED(status))
            die("the process of CPU %d was ended by signal %d", cpus[i], WTERMSIG(status));
        die("the process of CPU %d ended with status %d", cpus[i], WEXITSTATUS(status));
    }
}
