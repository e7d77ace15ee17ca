/*
 * Preloaded into the SSH server: waits for its connection, names an AF_VSOCK peer as 127.0.0.1,
 * leaves out what seeds its random numbers twice.
 *
 * A spare server (serve.c) is started with a listener in place of its connection: it takes one
 * here, before main(), so that all which comes before is done when a connection comes, and nothing
 * that depends on chance is.
 * dropbear ends with "Failed lookup" when getnameinfo() does not know the peer's address family.
 * It reads nine files of /proc after getrandom() has seeded it already, and for one of them the
 * kernel looks up the name of each timer's function: a quarter of the time of a login.
 * Built without libc: nothing to initialize, and nothing to resolve but where errno is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static long call(long number, long fd, void *address, void *length)
{
    long result;

    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(fd), "S"(address), "d"(length)
                     : "rcx", "r11", "memory");
    return result;
}

static long told(long result)
{
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static long option(long fd, long level, long name, void *value, int *size)
{
    register void *r10 __asm__("r10") = value;
    register int *r8 __asm__("r8") = size;
    long result;

    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(SYS_getsockopt), "D"(fd), "S"(level), "d"(name), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static int name(long number, int fd, struct sockaddr *address, socklen_t *length)
{
    socklen_t space = *length;
    long result = call(number, fd, address, length);

    if (!result && address->sa_family == AF_VSOCK && space >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in *in = (struct sockaddr_in *)address;
        in->sin_family = AF_INET;
        in->sin_port = 0;
        in->sin_addr.s_addr = 0x0100007f;   /* 127.0.0.1 in network order */
        for (unsigned i = 0; i < sizeof in->sin_zero; i++)
            in->sin_zero[i] = 0;
        *length = sizeof *in;
    }
    return told(result) < 0 ? -1 : 0;
}

__attribute__((constructor)) static void take_connection(void)
{
    int listens = 0, size = sizeof listens;
    long fd;

    if (option(0, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) || !listens)
        return;   /* the connection itself */
    call(SYS_write, 1, (void *)"w", (void *)1);
    do
        fd = call(SYS_accept, 0, 0, 0);
    while (fd == -EINTR || fd == -ECONNABORTED);
    if (fd < 0)
        return;
    call(SYS_write, 1, (void *)"!", (void *)1);
    call(SYS_dup2, fd, (void *)0, 0);
    call(SYS_dup2, fd, (void *)1, 0);
    call(SYS_close, fd, 0, 0);
}

int getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
    return name(SYS_getpeername, fd, address, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    return name(SYS_getsockname, fd, address, length);
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
        return told(-ENOENT);
    return told(call(SYS_open, (long)path, (void *)(long)flags, (void *)(long)mode));
}
