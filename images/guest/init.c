/*
 * PID 1 of guests, of containers of the same image, and of emulated hosts.
 *
 * It boots to SSH without a shell or a service manager, because each exec takes tens of milliseconds
 * under emulation. It writes these lines to the console, with NS in nanoseconds of CLOCK_BOOTTIME:
 *   harness: init NS       init runs
 *   harness: sshd NS       SSH connections are accepted
 *   harness: failed: WHAT: ERROR
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
#define PREPARE_NS 3000000000LL   /* less than the timeout in harness/agent/init_requests.py */
#define VMM_PORT 1023             /* harness/agent/init_requests.py */

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

void sleep_us(long us)
{
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

/* One write for each line: the kernel may use the same console. */
void log_line(const char *format, ...)
{
    char line[256] = "harness: ";
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line + 9, sizeof line - 10, format, arguments) + 9;
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    if (console < 0)   /* a console that needs a module (hvc0) appears later */
        console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (console >= 0 && write(console, line, length) < 0)
        return;   /* there is no other place for this error */
}

void log_stage(const char *stage)
{
    log_line("%s %lld", stage, now_ns());
}

void die(const char *what)
{
    log_line("failed: %s: %s", what, strerror(errno));
    sync();
    reboot(RB_POWER_OFF);
    _exit(1);   /* the power-off failed: the kernel panics */
}

static void shut_down(int command)
{
    kill(-1, SIGTERM);
    for (int i = 0; i < 100 && (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD); i++)
        sleep_us(5000);
    kill(-1, SIGKILL);
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    reboot(command);
    die("reboot");
}

pid_t spawn(char *const argv[], char *const environment[], int in, int out)
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
    log_line("cannot run %s: %s", argv[0], strerror(errno));
    _exit(127);
}

static void run_rc(void)
{
    static char *const argv[] = {"/etc/harness/rc", NULL};

    if (access(argv[0], X_OK))
        return;
    pid_t child = spawn(argv, ENVIRONMENT, -1, -1);
    waitpid(child, NULL, 0);
}

/* Starts OpenSSH on a host and waits until it listens. */
static void start_sshd(void)
{
    static char *const argv[] = {"/usr/sbin/sshd", "-D", NULL};
    pid_t child = spawn(argv, ENVIRONMENT, -1, -1);
    int status;

    while (!tcp_listens(SSH_PORT)) {
        if (waitpid(child, &status, WNOHANG) == child) {
            errno = ECHILD;
            die("sshd ended at its start");
        }
        sleep_us(5000);
    }
}

static int open_signalfd(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGUSR1);   /* halt, as for busybox */
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
            shut_down(RB_POWER_OFF);
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            shut_down(RB_AUTOBOOT);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

/* In a process with idle priority, so that an SSH login comes first. */
static void load_in_background(void)
{
    struct sched_param priority = {0};

    if (is_host || is_container || fork())
        return;
    sched_setscheduler(0, SCHED_IDLE, &priority);
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
        prepare_host();
    reboot(RB_DISABLE_CAD);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    configure_network();
    run_rc();
}

static struct ssh_server servers[2];
static int server_count;

static void open_listeners(void)
{
    int fd = is_container ? -1 : listen_vsock(SSH_PORT);   /* a container would use the host's */

    if (fd >= 0)
        open_ssh_server(&servers[server_count++], fd);
    else if (!has_ip())
        die("vsock listener");
    if (has_ip()) {
        if ((fd = listen_tcp(SSH_PORT)) < 0)
            die("TCP listener");
        open_ssh_server(&servers[server_count++], fd);
    }
}

int prepare_snapshot(void)
{
    long long deadline = now_ns() + PREPARE_NS;

    send_dummy_frame();
    for (int i = 0; i < server_count; i++)
        if (prepare_ssh_server(&servers[i], deadline))
            return -1;
    return 0;
}

int main(void)
{
    enum { SIGNALS, VMM, SERVERS };
    struct pollfd wait[SERVERS + 2] = {{.fd = -1}};

    console = fcntl(1, F_DUPFD_CLOEXEC, 3);   /* the kernel gives it to init as 0, 1, 2 */
    log_stage("init");
    boot();
    wait[SIGNALS].fd = open_signalfd();
    wait[VMM].fd = is_host || is_container ? -1 : listen_vsock(VMM_PORT);
    if (is_host)
        start_sshd();
    else
        open_listeners();
    log_stage("sshd");
    for (int i = 0; i < SERVERS + server_count; i++)
        wait[i].events = POLLIN;
    load_in_background();
    for (;;) {
        int timeout = -1;
        for (int i = 0; i < server_count; i++) {
            int due = ssh_server_timeout(&servers[i]);
            wait[SERVERS + i].fd = ssh_server_fd(&servers[i]);
            if (due >= 0 && (timeout < 0 || due < timeout))
                timeout = due;
        }
        if (poll(wait, SERVERS + server_count, timeout) < 0)
            continue;
        if (wait[SIGNALS].revents)
            handle_signals(wait[SIGNALS].fd);
        for (int i = 0; i < server_count; i++)
            if (wait[SERVERS + i].revents)
                handle_ssh_server(&servers[i]);
        for (int i = 0; i < server_count; i++)
            start_due_spare(&servers[i]);
        if (wait[VMM].revents)   /* last: it may read status pipes that poll() has reported */
            handle_vmm_request(wait[VMM].fd);
    }
}
