/*
 * Preloaded into the SSH server: names an AF_VSOCK peer as 127.0.0.1.
 *
 * dropbear ends with "Failed lookup" when getnameinfo() does not know the peer's address family.
 * Built without libc: nothing to resolve, nothing to initialize.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static long call(long number, int fd, void *address, void *length)
{
    long result;

    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"((long)fd), "S"(address), "d"(length)
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

int getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
    return name(SYS_getpeername, fd, address, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    return name(SYS_getsockname, fd, address, length);
}
