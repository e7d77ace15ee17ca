/*
 * What the host's VMM asks of init: it connects and sends one line of NAME=VALUE words. Before a
 * snapshot,
 *   settle=1 (have spare SSH servers, have sent a frame; blanks before it are to use up receive
 *   buffers)
 * and to a clone its own identity,
 *   time=NS (CLOCK_REALTIME) seed=HEX (random bytes) name=HOSTNAME mac=MAC ip=ADDRESS/PREFIX,GATEWAY;
 * answered by "ok" or by what is wrong. Until then a clone is its origin, down to the next random
 * number; so nobody else connects to it before.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* after the above: it needs sa_family_t */
#include <linux/vm_sockets.h>

#define SEED_MAX 256

static int set_time(const char *ns)
{
    char *end;
    long long value = strtoll(ns, &end, 10);
    struct timespec t = {value / 1000000000, value % 1000000000};

    errno = EINVAL;
    return *end || value <= 0 ? -1 : clock_settime(CLOCK_REALTIME, &t);
}

/* Credited to the kernel's pool and taken into use at once, on every CPU. */
static int reseed(const char *hex)
{
    struct {
        struct rand_pool_info info;
        unsigned char bytes[SEED_MAX];
    } pool;
    size_t length = strlen(hex) / 2;
    int fd, failed;

    errno = EINVAL;
    if (!length || length > SEED_MAX || strspn(hex, "0123456789abcdef") != 2 * length)
        return -1;
    for (size_t i = 0; i < length; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
        pool.bytes[i] = strtoul(digits, NULL, 16);
    }
    pool.info.entropy_count = 8 * length;
    pool.info.buf_size = length;
    if ((fd = open("/dev/urandom", O_RDWR | O_CLOEXEC)) < 0)
        return -1;
    failed = ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG);
    close(fd);
    return failed;
}

static int take(const char *word, const char *value)
{
    if (!strcmp(word, "settle"))
        return settle();
    if (!strcmp(word, "time"))
        return set_time(value);
    if (!strcmp(word, "seed"))
        return reseed(value);
    if (!strcmp(word, "name"))
        return sethostname(value, strlen(value));
    if (!strcmp(word, "mac"))
        return set_mac(value);
    if (!strcmp(word, "ip"))
        return set_ip(value);
    errno = ENOSYS;
    return -1;
}

/* The line, without its end; -1 when it does not come whole. */
static int read_line(int fd, char *line, size_t size)
{
    size_t got = 0;

    while (got < size) {
        ssize_t n = read(fd, line + got, size - got);
        if (n <= 0)
            return -1;
        got += n;
        if (line[got - 1] == '\n') {
            line[got - 1] = 0;
            return 0;
        }
    }
    return -1;
}

static void answer(int fd)
{
    struct timeval patience = {1, 0};   /* PID 1 has more to do */
    char line[1024], said[128] = "ok\n";

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (read_line(fd, line, sizeof line))
        return;
    for (char *rest, *word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(word, '=');
        if (value)
            *value++ = 0;
        if (!value || take(word, value)) {
            snprintf(said, sizeof said, "%s: %s\n", word, value ? strerror(errno) : "no value");
            break;
        }
    }
    if (write(fd, said, strlen(said)) < 0)
        return;   /* it will ask again */
}

void adopt(int listener)
{
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);

    if (fd >= 0 && peer.svm_cid == VMADDR_CID_HOST)
        answer(fd);
    close(fd);
}
