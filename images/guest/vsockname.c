/*
 * Preloaded into the SSH server: waits for its connection, names an AF_VSOCK peer as 127.0.0.1.
 *
 * A spare server (serve.c) is started with a listener in place of its connection: it takes one
 * here, before main(), so that all which comes before is done when a connection comes, and nothing
 * that depends on chance is.
 * dropbear ends with "Failed lookup" when getnameinfo() does not know the peer's address family.
 * Built without libc: nothing to resolve, nothing to initialize.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
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
    /* errno is out of reach without libc; callers here only look at the result */
    return result < 0 ? -1 : 0;
}

__attribute__((constructor)) static void take_connection(void)
{
    long fd;

    do
        fd = call(SYS_accept, 0, 0, 0);
    while (fd == -EINTR || fd == -ECONNABORTED);
    if (fd < 0)
        return;   /* no listener: the connection itself */
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
