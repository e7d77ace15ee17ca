/*
 * hv-end panic|triple-fault|reset|power-off: ends this machine in that way, at once.
 * As "poweroff" and "reboot" (links): asks init to do it in order, as busybox's do.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -1;
    return close(fd);
}

static void panic(void)
{
    put("/proc/sysrq-trigger", "c");
}

/* The kernel's own way to a triple fault, whatever reboot= the command line has. */
static void triple_fault(void)
{
    if (!put("/sys/kernel/reboot/type", "triple"))
        reboot(RB_AUTOBOOT);
}

/* The keyboard controller's reset line, then the chipset's reset register. */
static void reset(void)
{
    if (iopl(3))
        return;
    outb(0xfe, 0x64);
    usleep(100000);
    outb(0x06, 0xcf9);
    usleep(100000);
}

static void power_off(void)
{
    reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*end)(void); } ways[] = {
        {"panic", panic}, {"triple-fault", triple_fault}, {"reset", reset}, {"power-off", power_off},
    };
    const char *slash = strrchr(argv[0], '/'), *self = slash ? slash + 1 : argv[0];

    if (!strcmp(self, "poweroff") || !strcmp(self, "reboot"))
        return kill(1, strcmp(self, "reboot") ? SIGUSR2 : SIGTERM) != 0;
    for (unsigned i = 0; argc == 2 && i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(argv[1], ways[i].name))
            continue;
        sync();
        ways[i].end();
        fprintf(stderr, "hv-end: %s: still here: %s\n", argv[1], strerror(errno));
        return 1;
    }
    fprintf(stderr, "usage: hv-end panic|triple-fault|reset|power-off\n");
    return 2;
}
