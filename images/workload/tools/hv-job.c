/*
 * Answers hv-load: hv-job PORT COUNT [COMMAND [ARGUMENT]...]
 *
 * Each connection may send line feeds. Each one runs COMMAND; the answer is its exit status and a
 * line feed. Without a COMMAND the answer to each byte is the same byte. The file COUNT has the
 * number of answers, as a uint64 in the machine's byte order. Connections are independent, up to
 * MAX_CHILDREN at once. A job is killed with its process group when its connection is closed:
 * otherwise it would disturb what is measured next. hv-job runs until it is killed, and prints
 * "listening" when the port is open.
 */
#define _GNU_SOURCE   /* POLLRDHUP, ppoll */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CHILDREN 64

extern char **environ;
static _Atomic uint64_t *answers;   /* of all connections: the file COUNT */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "hv-job: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void open_count(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0 || ftruncate(fd, sizeof *answers))
        die(path);
    answers = mmap(NULL, sizeof *answers, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (answers == MAP_FAILED)
        die(path);
    close(fd);
}

static void ignore(int signal)
{
    (void)signal;   /* it only interrupts ppoll(2) */
}

/* Starts a job in a process group of its own, with the signal mask `mask`. Returns 0 for none. */
static pid_t start(char **argv, const sigset_t *mask)
{
    posix_spawnattr_t attributes;
    pid_t pid;
    int error;

    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, mask);
    error = posix_spawnp(&pid, argv[0], NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    return error ? 0 : pid;
}

/* Runs a job to its end. Does not return if the client of `fd` goes away meanwhile. */
static int run(int fd, char **argv)
{
    struct pollfd client = {.fd = fd, .events = POLLRDHUP};
    sigset_t blocked, mask;
    int status;

    /* SIGCHLD is blocked outside of ppoll(2), so that none is missed before it. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, &mask);
    pid_t ended, pid = start(argv, &mask);

    if (!pid) {
        sigprocmask(SIG_SETMASK, &mask, NULL);
        return 127;
    }
    while (!(ended = waitpid(pid, &status, WNOHANG)))
        if (ppoll(&client, 1, NULL, &mask) > 0) {
            killpg(pid, SIGKILL);
            exit(0);
        }
    sigprocmask(SIG_SETMASK, &mask, NULL);
    if (ended < 0)
        return 126;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static _Noreturn void serve(int fd, char **argv)
{
    char answer[16];
    int null = open("/dev/null", O_RDWR);

    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = ignore}, NULL);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    while (read(fd, answer, 1) == 1) {
        int length = 1;

        if (*argv && *answer != '\n')
            break;
        if (*argv)
            length = snprintf(answer, sizeof answer, "%d\n", run(fd, argv));
        if (write(fd, answer, length) != length)
            break;
        ++*answers;
    }
    exit(0);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int on = 1, children = 0, listener = socket(AF_INET, SOCK_STREAM, 0);

    if (argc < 3 || atoi(argv[1]) < 1 || atoi(argv[1]) > 65535) {
        fprintf(stderr, "usage: hv-job PORT COUNT [COMMAND [ARGUMENT]...]\n");
        return 2;
    }
    open_count(argv[2]);
    address.sin_port = htons(atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address)
        || listen(listener, MAX_CHILDREN))
        die("listen");
    puts("listening");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
            die("accept");
        /* wait for a child when there are too many, else only collect those that have ended */
        while (children && waitpid(-1, NULL, children < MAX_CHILDREN ? WNOHANG : 0) > 0)
            children--;
        if (fd < 0)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        switch (fork()) {
        case -1:
            die("fork");
        case 0:
            close(listener);
            serve(fd, argv + 3);
        default:
            children++;
            close(fd);
        }
    }
}
