#include "load.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534

void drop_rights(void)
{
    if (!geteuid() && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY)))
        die("cannot become nobody: %s", strerror(errno));
}

/* Rights are given up before the first byte of a server is read. */
void filter_system_calls(void)
{
    static const uint16_t allowed[] = {
        SYS_write, SYS_close, SYS_socket, SYS_connect, SYS_setsockopt, SYS_getsockopt,
        SYS_sendto, SYS_recvfrom, SYS_epoll_ctl, SYS_epoll_wait, SYS_timerfd_settime,
        SYS_clock_gettime, SYS_mmap, SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise, SYS_mprotect,
        SYS_newfstatat, SYS_writev, SYS_getrandom, SYS_exit_group,
    };
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter code[4 + COUNT + 2], *at = code;

    *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                         offsetof(struct seccomp_data, arch));
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                         offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < COUNT; i++)
        *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], COUNT - i, 0);
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = at - code, .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        die("seccomp: %s", strerror(errno));
}
