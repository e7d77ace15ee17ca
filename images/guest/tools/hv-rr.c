/*
 * Measures TCP round trips of one byte on one connection, with one byte in flight.
 *
 * hv-rr PORT                   server: echoes each byte, each connection in a process of its own,
 *                              until killed; prints "listening" when the port is open
 * hv-rr ADDRESS PORT SECONDS   client: runs for SECONDS and prints one line (percentiles in us):
 *                              round_trips N seconds S p50 US p99 US
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_ROUND_TRIPS 4000000

static unsigned latencies[MAX_ROUND_TRIPS];   /* ns */

static void die(const char *what)
{
    fprintf(stderr, "hv-rr: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void disable_nagle(int fd)
{
    int on = 1;

    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
        die("TCP_NODELAY");
}

/* A process that serves one connection ends with the server. */
static void serve_connection(int listener, int fd)
{
    pid_t server = getpid(), pid = fork();
    char byte;

    if (pid < 0)
        die("fork");
    if (pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != server)
        _exit(0);
    close(listener);
    disable_nagle(fd);
    while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
        ;
    _exit(0);
}

static _Noreturn void serve(struct sockaddr_in address)
{
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    signal(SIGCHLD, SIG_IGN);   /* no zombies */
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64))
        die("listen");
    puts("listening");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0)
            die("accept");
        serve_connection(listener, fd);
        close(fd);
    }
}

static int compare(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return x < y ? -1 : x > y;
}

static void measure(struct sockaddr_in address, double seconds)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    long count = 0;
    char byte = 0;

    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    disable_nagle(fd);
    long long start = now_ns(), end = start + (long long)(seconds * 1e9), last = start, now;
    while (last < end && count < MAX_ROUND_TRIPS) {
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
            die("round trip");
        now = now_ns();
        latencies[count++] = now - last;
        last = now;
    }
    qsort(latencies, count, sizeof *latencies, compare);
    printf("round_trips %ld seconds %.6f p50 %.3f p99 %.3f\n", count, (last - start) / 1e9,
           latencies[count / 2] / 1e3, latencies[count * 99 / 100] / 1e3);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};

    if (argc == 2) {
        address.sin_port = htons(atoi(argv[1]));
        serve(address);
    }
    if (argc == 4 && inet_pton(AF_INET, argv[1], &address.sin_addr) == 1 && atof(argv[3]) > 0) {
        address.sin_port = htons(atoi(argv[2]));
        measure(address, atof(argv[3]));
        return 0;
    }
    fprintf(stderr, "usage: hv-rr PORT | hv-rr ADDRESS PORT SECONDS\n");
    return 2;
}
