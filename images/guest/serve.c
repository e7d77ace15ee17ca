/*
 * SSH servers, one for each connection, inetd style: no daemon to wait for at boot.
 *
 * One is ahead: started, linked, and waiting in accept() before it has asked for a random number
 * (preload.c). It tells by bytes in a pipe that it is about to wait, "w", and that it has a
 * connection, "!"; the next one is started a moment later, as its start would slow the login down.
 * A connection that comes while there is none, init accepts itself. One that ends before (killed,
 * or it cannot run) is not followed by another until then, or until init is to settle. In clones of
 * one snapshot it is the same: their first servers share what execve() chose by chance, addresses
 * and the stack's canary.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define REST_NS 500000000LL

/* It waits if its standard input is a listener; else that is the connection. */
static pid_t start_server(int in, int out)
{
    static char *const argv[] = {
        "/usr/sbin/dropbear", "-i", "-s", "-m", "-W", "1048576", "-r", "/run/harness/dropbear_key", NULL,
    };
    static char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
        "LD_PRELOAD=/usr/lib/harness/preload.so", "LD_BIND_NOW=1", NULL,
    };

    return start(argv, environment, in, out);
}

static void start_spare(struct server *server)
{
    int news[2];

    server->news = -1;
    server->waiting = 0;
    server->due = 0;
    if (pipe2(news, O_CLOEXEC))
        return;
    if (start_server(server->listener, news[1]) > 0)
        server->news = news[0];
    else
        close(news[0]);
    close(news[1]);
}

static void accept_here(struct server *server)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    start_server(fd, fd);
    close(fd);
    server->due = now_ns() + REST_NS;
}

void open_server(struct server *server, int listener)
{
    server->listener = listener;
    start_spare(server);
}

/* What to wait for: the spare's news, or without a spare a connection. */
int server_fd(const struct server *server)
{
    return server->news >= 0 ? server->news : server->listener;
}

/* Milliseconds until start_due() has something to do, -1 for never. */
int server_wait(const struct server *server)
{
    long long left = server->due - now_ns();

    return !server->due ? -1 : left > 0 ? left / 1000000 + 1 : 0;
}

void start_due(struct server *server)
{
    if (server->due && now_ns() >= server->due)
        start_spare(server);
}

void serve(struct server *server)
{
    char word;

    if (server->news < 0) {
        accept_here(server);
        return;
    }
    ssize_t got = read(server->news, &word, 1);
    if (got == 1 && word == 'w') {
        server->waiting = 1;
        return;
    }
    close(server->news);
    server->news = -1;
    if (got == 1)
        server->due = now_ns() + REST_NS;
}

/* Whether its pipe has something to tell within that many milliseconds. */
static int has_news(const struct server *server, int ms)
{
    struct pollfd wait = {.fd = server->news, .events = POLLIN};

    return server->news >= 0 && poll(&wait, 1, ms) > 0;
}

/* Have a spare that is as far as its accept(); -1 with errno when there is none until then. */
int settle_server(struct server *server, long long end)
{
    while (has_news(server, 0))   /* it may just have been taken */
        serve(server);
    if (server->news < 0)
        start_spare(server);
    while (server->news >= 0 && !server->waiting && now_ns() < end)
        if (has_news(server, 100))
            serve(server);
    errno = server->news < 0 ? ECHILD : ETIMEDOUT;
    return server->news >= 0 && server->waiting ? 0 : -1;
}
