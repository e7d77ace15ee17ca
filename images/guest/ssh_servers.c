/*
 * SSH servers, one process for each connection as under inetd: no daemon delays the boot.
 *
 * One spare server runs ahead: it is started and linked, and waits in accept() before it has read a
 * random number (preload.c). It writes "w" into a pipe before it waits and "!" when it has a
 * connection. The next spare starts some time later, because its start would delay the login. While
 * there is no spare, init accepts connections. After a spare that ended early (killed, or not
 * executable), the next one starts with the next connection or before the next snapshot.
 * The first servers of clones of one snapshot are copies of one spare: they share what execve() chose
 * at random, the addresses and the stack's canary.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPARE_DELAY_NS 500000000LL

/* `in` is the connection, or a listener: then the server accepts one connection from it. */
static pid_t start_server(int in, int out)
{
    static char *const argv[] = {
        "/usr/sbin/dropbear", "-i", "-s", "-m", "-W", "1048576", "-r", "/run/harness/dropbear_key", NULL,
    };
    static char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
        "LD_PRELOAD=/usr/lib/harness/preload.so", "LD_BIND_NOW=1", NULL,
    };

    return spawn(argv, environment, in, out);
}

static void start_spare(struct ssh_server *server)
{
    int status[2];

    server->status = -1;
    server->waiting = 0;
    server->due = 0;
    if (pipe2(status, O_CLOEXEC))
        return;
    if (start_server(server->listener, status[1]) > 0)
        server->status = status[0];
    else
        close(status[0]);
    close(status[1]);
}

static void accept_connection(struct ssh_server *server)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    start_server(fd, fd);
    close(fd);
    server->due = now_ns() + SPARE_DELAY_NS;
}

void open_ssh_server(struct ssh_server *server, int listener)
{
    server->listener = listener;
    start_spare(server);
}

/* The descriptor to poll: the spare's status pipe, or the listener without a spare. */
int ssh_server_fd(const struct ssh_server *server)
{
    return server->status >= 0 ? server->status : server->listener;
}

/* Milliseconds until start_due_spare() has something to do, -1 for never. */
int ssh_server_timeout(const struct ssh_server *server)
{
    long long left = server->due - now_ns();

    return !server->due ? -1 : left > 0 ? left / 1000000 + 1 : 0;
}

void start_due_spare(struct ssh_server *server)
{
    if (server->due && now_ns() >= server->due)
        start_spare(server);
}

void handle_ssh_server(struct ssh_server *server)
{
    char word;

    if (server->status < 0) {
        accept_connection(server);
        return;
    }
    ssize_t length = read(server->status, &word, 1);
    if (length == 1 && word == 'w') {
        server->waiting = 1;
        return;
    }
    close(server->status);
    server->status = -1;
    if (length == 1)
        server->due = now_ns() + SPARE_DELAY_NS;
}

/* Whether the status pipe becomes readable within that many milliseconds. */
static int has_status(const struct ssh_server *server, int ms)
{
    struct pollfd wait = {.fd = server->status, .events = POLLIN};

    return server->status >= 0 && poll(&wait, 1, ms) > 0;
}

/* Waits until a spare is in accept(); -1 with errno if none is at `deadline`. */
int prepare_ssh_server(struct ssh_server *server, long long deadline)
{
    while (has_status(server, 0))   /* a connection may just have taken the spare */
        handle_ssh_server(server);
    if (server->status < 0)
        start_spare(server);
    while (server->status >= 0 && !server->waiting && now_ns() < deadline)
        if (has_status(server, 100))
            handle_ssh_server(server);
    errno = server->status < 0 ? ECHILD : ETIMEDOUT;
    return server->status >= 0 && server->waiting ? 0 : -1;
}
