/*
 * PID 1 of guests, of containers of the same image, and of emulated hosts, from the initramfs to the
 * end of the machine.
 *
 * There is no shell and no service manager on the way to SSH: under emulation each exec costs
 * tens of milliseconds. Lines written to the console:
 *   harness: init NS       the first act, NS nanoseconds of CLOCK_BOOTTIME
 *   harness: sshd NS       SSH connections are accepted from now on
 *   harness: failed: WHAT: WHY
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SSH_PORT 22
#define SETTLE_NS 3000000000LL   /* less than harness/agent/identity.py waits */
#define ADOPTION_PORT 1023   /* harness/agent/identity.py */

static char *const ENVIRONMENT[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL,
};

static int console = -1;

long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void nap_us(long us)
{
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

/* One write a line: the console may be shared with the kernel. */
void say(const char *format, ...)
{
    char line[256] = "harness: ";
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line + 9, sizeof line - 10, format, arguments) + 9;
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    if (console < 0)   /* one that needs a module (hvc0) is not there at first */
        console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (console >= 0 && write(console, line, length) < 0)
        return;   /* nobody else to tell */
}

void mark(const char *stage)
{
    say("%s %lld", stage, now_ns());
}

void die(const char *what)
{
    say("failed: %s: %s", what, strerror(errno));
    sync();
    reboot(RB_POWER_OFF);
    _exit(1);   /* no power-off here: the kernel panics */
}

static void end_machine(int command)
{
    kill(-1, SIGTERM);
    for (int i = 0; i < 100 && (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD); i++)
        nap_us(5000);
    kill(-1, SIGKILL);
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    reboot(command);
    die("reboot");
}

pid_t start(char *const argv[], char *const environment[], int in, int out)
{
    pid_t child = fork();

    if (child)
        return child;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (in >= 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(in, 0);
        dup2(out, 1);
        dup2(null, 2);
    }
    execve(argv[0], argv, environment);
    say("cannot run %s: %s", argv[0], strerror(errno));
    _exit(127);
}

static void run_rc(void)
{
    static char *const argv[] = {"/etc/harness/rc", NULL};

    if (access(argv[0], X_OK))
        return;
    pid_t child = start(argv, ENVIRONMENT, -1, -1);
    waitpid(child, NULL, 0);
}

/* The host's OpenSSH listens by itself; ready means that it really does. */
static void start_sshd(void)
{
    static char *const argv[] = {"/usr/sbin/sshd", "-D", NULL};
    pid_t child = start(argv, ENVIRONMENT, -1, -1);
    int status;

    while (!tcp_listens(SSH_PORT)) {
        if (waitpid(child, &status, WNOHANG) == child) {
            errno = ECHILD;
            die("sshd ended at its start");
        }
        nap_us(5000);
    }
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGUSR1);   /* as busybox: halt */
    sigaddset(&set, SIGUSR2);   /* power off */
    sigaddset(&set, SIGTERM);   /* reboot */
    sigaddset(&set, SIGINT);    /* Ctrl-Alt-Del */
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void handle_signals(int signals)
{
    struct signalfd_siginfo info;

    while (read(signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2)
            end_machine(RB_POWER_OFF);
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            end_machine(RB_AUTOBOOT);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

/* By a process that has the CPU when nobody else wants it: SSH's log-in does. */
static void load_in_background(void)
{
    struct sched_param none = {0};

    if (is_host || is_container || fork())
        return;
    sched_setscheduler(0, SCHED_IDLE, &none);
    load_late_modules();
    _exit(0);
}

static void boot(void)
{
    mount_early();
    if (!is_container) {
        load_modules();
        mount_root();
    }
    enter_root();
    set_up_root();
    if (is_host)
        settle_host();
    reboot(RB_DISABLE_CAD);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    configure_network();
    run_rc();
}

static struct server servers[2];
static int server_count;

static void open_listeners(void)
{
    int fd = is_container ? -1 : listen_vsock(SSH_PORT);   /* the host's port is not ours */

    if (fd >= 0)
        open_server(&servers[server_count++], fd);
    else if (!has_ip())
        die("vsock listener");
    if (has_ip()) {
        if ((fd = listen_tcp(SSH_PORT)) < 0)
            die("TCP listener");
        open_server(&servers[server_count++], fd);
    }
}

int settle(void)
{
    long long end = now_ns() + SETTLE_NS;

    stir_network();
    for (int i = 0; i < server_count; i++)
        if (settle_server(&servers[i], end))
            return -1;
    return 0;
}

int main(void)
{
    enum { SIGNALS, ADOPTION, SERVERS };
    struct pollfd wait[SERVERS + 2] = {{.fd = -1}};

    console = fcntl(1, F_DUPFD_CLOEXEC, 3);   /* the kernel gives it to init as 0, 1, 2 */
    mark("init");
    boot();
    wait[SIGNALS].fd = open_signals();
    wait[ADOPTION].fd = is_host || is_container ? -1 : listen_vsock(ADOPTION_PORT);
    if (is_host)
        start_sshd();
    else
        open_listeners();
    mark("sshd");
    for (int i = 0; i < SERVERS + server_count; i++)
        wait[i].events = POLLIN;
    load_in_background();
    for (;;) {
        int timeout = -1;
        for (int i = 0; i < server_count; i++) {
            int due = server_wait(&servers[i]);
            wait[SERVERS + i].fd = server_fd(&servers[i]);
            if (due >= 0 && (timeout < 0 || due < timeout))
                timeout = due;
        }
        if (poll(wait, SERVERS + server_count, timeout) < 0)
            continue;
        if (wait[SIGNALS].revents)
            handle_signals(wait[SIGNALS].fd);
        for (int i = 0; i < server_count; i++)
            if (wait[SERVERS + i].revents)
                serve(&servers[i]);
        for (int i = 0; i < server_count; i++)
            start_due(&servers[i]);
        if (wait[ADOPTION].revents)   /* last: to settle takes news that poll() has told of */
            adopt(wait[ADOPTION].fd);
    }
}
