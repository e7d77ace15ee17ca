/* Connections, of which each carries one request at a time. */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct connection *connections[MAX_CONNECTIONS];
static unsigned connection_count;
static int epoll_fd;

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
    connection_count--;
}

static void fail(struct connection *connection, enum status status)
{
    if (connection->request)
        finish(connection->request, status, clock_ns(CLOCK_MONOTONIC));
    connection->request = NULL;
    forget(connection);
}

static void watch(struct connection *connection, int operation)
{
    int writing = !connection->connected || connection->out_sent < connection->out_size;
    struct epoll_event event = {
        .events = EPOLLIN | (writing && connection->request ? EPOLLOUT : 0),
        .data.ptr = connection,
    };

    if (epoll_ctl(epoll_fd, operation, connection->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static void send_rest(struct connection *connection)
{
    int had = connection->out_sent < connection->out_size;

    while (connection->out_sent < connection->out_size) {
        ssize_t count = send(connection->fd, connection->out + connection->out_sent,
                             connection->out_size - connection->out_sent, MSG_NOSIGNAL);

        if (count < 0 && errno == EAGAIN)
            break;
        if (count < 0) {
            fail(connection, CONNECTION_LOST);
            return;
        }
        if (!connection->out_sent)
            connection->request->record.sent = clock_ns(CLOCK_MONOTONIC);
        connection->out_sent += count;
    }
    if (had)
        watch(connection, EPOLL_CTL_MOD);
}

static struct connection *open_connection(unsigned index)
{
    struct target *target = &targets[index];
    struct connection *connection = NULL;
    int on = 1;

    if (target->connections >= MAX_TARGET_CONNECTIONS || connection_count >= MAX_CONNECTIONS)
        return NULL;
    for (unsigned i = 0; !connection; i++) {
        if (!connections[i] && (connections[i] = malloc(sizeof **connections)))
            connections[i]->fd = -1;
        if (!connections[i])
            die("out of memory");
        if (connections[i]->fd < 0)
            connection = connections[i];
    }
    memset(connection, 0, sizeof *connection);
    connection->target = index;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    target->connections++;
    connection_count++;
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
        watch(connection, EPOLL_CTL_ADD);
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
        finish(connection->request, OK, clock_ns(CLOCK_MONOTONIC));
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

/* timer_fd: wait_for_events() returns when it is readable. */
void open_epoll(int timer_fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0 || timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event))
        die("epoll: %s", strerror(errno));
}

/* Handles what happens next on connections. Returns 1 if the timer expired, else 0. */
int wait_for_events(void)
{
    struct epoll_event events[64];
    int expired = 0, count = epoll_wait(epoll_fd, events, 64, -1);

    for (int i = 0; i < count; i++)
        if (events[i].data.ptr)
            handle(events[i].data.ptr, events[i].events);
        else
            expired = 1;
    return expired;
}

void finish_unanswered(void)
{
    for (unsigned i = 0; i < MAX_CONNECTIONS && connections[i]; i++)
        if (connections[i]->fd >= 0 && connections[i]->request)
            finish(connections[i]->request, UNANSWERED, 0);
    for (unsigned i = 0; i < target_count; i++)
        for (struct request *request = targets[i].first, *next; request; request = next) {
            next = request->next;
            finish(request, UNANSWERED, 0);
        }
}
