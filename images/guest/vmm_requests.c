/*
 * Requests of the host's VMM: it connects by vsock and sends one line of NAME=VALUE words. Before a
 * snapshot:
 *   prepare=1   have spare SSH servers ready and send a frame; blanks in front of this word use up
 *               receive buffers of the vsock device
 * To a clone, its identity:
 *   time=NS (CLOCK_REALTIME) seed=HEX (random bytes) name=HOSTNAME mac=MAC ip=ADDRESS/PREFIX,GATEWAY
 * The answer is "ok" or the first word that failed with its error. Until a clone has its identity it
 * equals its origin, including its next random number, so no one else connects to it before.
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

/* Credits the bytes to the kernel's pool and reseeds the generator of every CPU. */
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

static int apply_word(const char *word, const char *value)
{
    if (!strcmp(word, "prepare"))
        return prepare_snapshot();
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

/* Reads one line and removes its newline; -1 when the line is incomplete. */
static int read_line(int fd, char *line, size_t size)
{
    size_t length = 0;

    while (length < size) {
        ssize_t n = read(fd, line + length, size - length);
        if (n <= 0)
            return -1;
        length += n;
        if (line[length - 1] == '\n') {
            line[length - 1] = 0;
            return 0;
        }
    }
    return -1;
}

static void answer_request(int fd)
{
    struct timeval timeout = {1, 0};   /* PID 1 has other work */
    char line[1024], answer[128] = "ok\n";

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    if (read_line(fd, line, sizeof line))
        return;
    for (char *rest, *word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(word, '=');
        if (value)
            *value++ = 0;
        if (!value || apply_word(word, value)) {
            snprintf(answer, sizeof answer, "%s: %s\n", word, value ? strerror(errno) : "no value");
            break;
        }
    }
    if (write(fd, answer, strlen(answer)) < 0)
        return;   /* the VMM repeats its request */
}

void handle_vmm_request(int listener)
{
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);

    if (fd >= 0 && peer.svm_cid == VMADDR_CID_HOST)
        answer_request(fd);
    close(fd);
}
