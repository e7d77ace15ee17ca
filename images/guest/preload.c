/*
 * Preloaded into dropbear, the SSH server.
 *
 * - A spare server (ssh_servers.c) starts with a listener as its standard input. The constructor
 *   accepts the connection before main(). So all earlier work is done when a connection arrives, and
 *   no random number has been read yet.
 * - dropbear ends with "Failed lookup" when getnameinfo() does not know the peer's address family.
 *   An AF_VSOCK peer therefore appears as 127.0.0.1.
 * - dropbear seeds its random numbers by getrandom() and then again from nine files of /proc. For one
 *   of them the kernel resolves the function name of each timer, which takes a quarter of the time
 *   of a login. Files in /proc therefore appear as absent.
 *
 * Built without libc: nothing is initialized, and no symbol but errno's is resolved.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static long syscall3(long number, long fd, void *address, void *length)
{
    long result;

    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(fd), "S"(address), "d"(length)
                     : "rcx", "r11", "memory");
    return result;
}

static long set_errno(long result)
{
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static long get_socket_option(long fd, long level, long name, void *value, int *size)
{
    register void *r10 __asm__("r10") = value;
    register int *r8 __asm__("r8") = size;
    long result;

    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(SYS_getsockopt), "D"(fd), "S"(level), "d"(name), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static int get_socket_name(long number, int fd, struct sockaddr *address, socklen_t *length)
{
    socklen_t capacity = *length;
    long result = syscall3(number, fd, address, length);

    if (!result && address->sa_family == AF_VSOCK && capacity >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in *in = (struct sockaddr_in *)address;
        in->sin_family = AF_INET;
        in->sin_port = 0;
        in->sin_addr.s_addr = 0x0100007f;   /* 127.0.0.1 in network order */
        for (unsigned i = 0; i < sizeof in->sin_zero; i++)
            in->sin_zero[i] = 0;
        *length = sizeof *in;
    }
    return set_errno(result) < 0 ? -1 : 0;
}

__attribute__((constructor)) static void accept_connection(void)
{
    int listens = 0, size = sizeof listens;
    long fd;

    if (get_socket_option(0, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) || !listens)
        return;   /* standard input is the connection */
    syscall3(SYS_write, 1, (void *)"w", (void *)1);
    do
        fd = syscall3(SYS_accept, 0, 0, 0);
    while (fd == -EINTR || fd == -ECONNABORTED);
    if (fd < 0)
        return;
    syscall3(SYS_write, 1, (void *)"!", (void *)1);
    syscall3(SYS_dup2, fd, (void *)0, 0);
    syscall3(SYS_dup2, fd, (void *)1, 0);
    syscall3(SYS_close, fd, 0, 0);
}

int getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
    return get_socket_name(SYS_getpeername, fd, address, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    return get_socket_name(SYS_getsockname, fd, address, length);
}

static int starts_with(const char *text, const char *start)
{
    while (*start && *text == *start)
        text++, start++;
    return !*start;
}

int open(const char *path, int flags, ...)
{
    va_list arguments;

    va_start(arguments, flags);
    int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    if (starts_with(path, "/proc/"))
        return set_errno(-ENOENT);
    return set_errno(syscall3(SYS_open, (long)path, (void *)(long)flags, (void *)(long)mode));
}
