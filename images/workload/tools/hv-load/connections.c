/* Connections, of which each carries one request at a time. */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define RESERVED_FDS 16

static unsigned connection_count, target_limit = MAX_TARGET_CONNECTIONS;
static struct connection *unused, *closed;   /* closed: events of this round may name them */
static int epoll_fd;

/* Shares the possible connections out, so that a slow target takes none from another one. */
void limit_connections(void)
{
    const unsigned wanted = MAX_CONNECTIONS + RESERVED_FDS;
    unsigned count = 0;
    struct rlimit limit = {wanted, wanted};

    for (unsigned i = 0; i < target_count; i++)
        count += targets[i].worker == worker;
    if (setrlimit(RLIMIT_NOFILE, &limit)) {   /* without the right to raise the hard limit */
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < count + RESERVED_FDS)
        die("%u targets need more than %lu open files", count, (unsigned long)limit.rlim_cur);
    if (count && (limit.rlim_cur - RESERVED_FDS) / count < target_limit)
        target_limit = (limit.rlim_cur - RESERVED_FDS) / count;
}

static void forget(struct connection *connection)
{
    struct target *target = &targets[connection->target];

    for (struct connection **at = &target->idle; *at; at = &(*at)->next)
        if (*at == connection) {
            *at = connection->next;
            break;
        }
    close(connection->fd);
    connection->fd = -1;
    target->connections--;
    struct connection **list = connection->watched ? &closed : &unused;
    connection->next = *list;
    *list = connection;
}

static void fail(struct connection *connection, enum status status)
{
    if (connection->request)
        finish(connection->request, status);
    connection->request = NULL;
    forget(connection);
}

static void watch(struct connection *connection, int operation, int awaits_space)
{
    struct epoll_event event = {
        .events = EPOLLIN | (awaits_space ? EPOLLOUT : 0),
        .data.ptr = connection,
    };

    connection->watched = 1;
    connection->awaits_space = awaits_space;
    if (epoll_ctl(epoll_fd, operation, connection->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static void send_rest(struct connection *connection)
{
    while (connection->out_sent < connection->out_size) {
        /* before the call, in which the server may already answer */
        int64_t now = connection->out_sent ? 0 : clock_ns(CLOCK_MONOTONIC);
        ssize_t count = send(connection->fd, connection->out + connection->out_sent,
                             connection->out_size - connection->out_sent, MSG_NOSIGNAL);

        if (count < 0 && errno == EAGAIN)
            break;
        if (count < 0) {
            fail(connection, CONNECTION_LOST);
            return;
        }
        if (!connection->out_sent)
            connection->request->record.sent = since_schedule(connection->request, now);
        connection->out_sent += count;
    }
    int awaits_space = connection->out_sent < connection->out_size;

    if (awaits_space != connection->awaits_space)
        watch(connection, EPOLL_CTL_MOD, awaits_space);
}

static struct connection *unused_connection(void)
{
    struct connection *connection = unused;

    if (connection) {
        unused = connection->next;
    } else {
        if (connection_count == MAX_CONNECTIONS)
            return NULL;   /* until the next round has those that are closed */
        if (!(connection = malloc(sizeof *connection)))
            die("out of memory for %u connections", connection_count);
        connection_count++;
    }
    memset(connection, 0, offsetof(struct connection, out));
    connection->out_size = connection->out_sent = connection->header_size = 0;
    connection->next = NULL;
    return connection;
}

static struct connection *open_connection(unsigned index)
{
    struct target *target = &targets[index];
    struct connection *connection;
    int on = 1;

    if (target->connections >= target_limit || !(connection = unused_connection()))
        return NULL;
    connection->target = index;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    target->connections++;
    return connection;
}

/* Gives waiting requests to idle or new connections. */
void dispatch(unsigned index)
{
    struct target *target = &targets[index];

    while (target->first) {
        struct connection *connection = target->idle;
        int is_new = !connection;

        if (connection)
            target->idle = connection->next;
        else if (!(connection = open_connection(index)))
            return;
        connection->request = target->first;
        if (!(target->first = target->first->next))
            target->last = NULL;
        compose(connection);
        if (!is_new) {
            send_rest(connection);
            continue;
        }
        if (connect(connection->fd, (struct sockaddr *)&target->address, sizeof target->address)
            && errno != EINPROGRESS) {
            fail(connection, CONNECTION_LOST);
            continue;
        }
        watch(connection, EPOLL_CTL_ADD, 1);
    }
}

static void receive(struct connection *connection)
{
    static char data[65536];
    ssize_t size = recv(connection->fd, data, sizeof data, 0);

    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0 || !connection->request) {   /* no answer is due on an idle connection */
        fail(connection, CONNECTION_LOST);
        return;
    }
    switch (read_answer(connection, data, size)) {
    case INCOMPLETE:
        return;
    case BAD:
        fail(connection, WRONG_ANSWER);
        return;
    case COMPLETE:
        if (connection->out_sent < connection->out_size) {   /* before the request was sent */
            fail(connection, WRONG_ANSWER);
            return;
        }
        finish(connection->request, OK);
        connection->request = NULL;
        connection->next = targets[connection->target].idle;
        targets[connection->target].idle = connection;
    }
}

static void handle(struct connection *connection, uint32_t events)
{
    unsigned index = connection->target;

    if (connection->fd < 0)
        return;   /* closed by an earlier event of this round */
    if (!connection->connected && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        socklen_t size = sizeof error;

        getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            fail(connection, CONNECTION_LOST);
            return;
        }
        connection->connected = 1;
    }
    if (events & EPOLLOUT && connection->request)
        send_rest(connection);
    if (connection->fd >= 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        receive(connection);
    dispatch(index);
}

/* timer_fd: wait_for_events() returns when it expires. */
void open_epoll(int timer_fd)
{
    /* Edge-triggered: a timer that is not read is reported once each time it expires. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0 || timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event))
        die("epoll: %s", strerror(errno));
}

/* Handles what happens next on connections. */
void wait_for_events(void)
{
    struct epoll_event events[64];
    int count = epoll_wait(epoll_fd, events, 64, -1);

    for (int i = 0; i < count; i++)
        if (events[i].data.ptr)
            handle(events[i].data.ptr, events[i].events);
    for (struct connection *connection; (connection = closed);) {
        closed = connection->next;
        connection->next = unused;
        unused = connection;
    }
}
