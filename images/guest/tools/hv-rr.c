/*
 * TCP round trips of one byte, one at a time on one connection.
 *
 * hv-rr PORT                   answers on that port, one connection after the other, until killed;
 *                              prints "listening" once it does
 * hv-rr ADDRESS PORT SECONDS   asks for so long and prints one line:
 *                              trips N seconds S p50 US p99 US
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_TRIPS 4000000

static unsigned trips[MAX_TRIPS];   /* ns each */

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

static void send_at_once(int fd)
{
    int on = 1;

    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
        die("TCP_NODELAY");
}

static _Noreturn void answer(struct sockaddr_in address)
{
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    char byte;

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
        die("listen");
    puts("listening");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0)
            die("accept");
        send_at_once(fd);
        while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
            ;
        close(fd);
    }
}

static int shorter(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return x < y ? -1 : x > y;
}

static void ask(struct sockaddr_in address, double seconds)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    long count = 0;
    char byte = 0;

    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    send_at_once(fd);
    long long start = now_ns(), end = start + (long long)(seconds * 1e9), last = start, now;
    while (last < end && count < MAX_TRIPS) {
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
            die("round trip");
        now = now_ns();
        trips[count++] = now - last;
        last = now;
    }
    qsort(trips, count, sizeof *trips, shorter);
    printf("trips %ld seconds %.6f p50 %.3f p99 %.3f\n", count, (last - start) / 1e9,
           trips[count / 2] / 1e3, trips[count * 99 / 100] / 1e3);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};

    if (argc == 2) {
        address.sin_port = htons(atoi(argv[1]));
        answer(address);
    }
    if (argc == 4 && inet_pton(AF_INET, argv[1], &address.sin_addr) == 1 && atof(argv[3]) > 0) {
        address.sin_port = htons(atoi(argv[2]));
        ask(address, atof(argv[3]));
        return 0;
    }
    fprintf(stderr, "usage: hv-rr PORT | hv-rr ADDRESS PORT SECONDS\n");
    return 2;
}
