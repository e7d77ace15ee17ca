/*
 * hv-end panic|triple-fault|reset|power-off: ends this machine immediately.
 * Run through the links "poweroff" and "reboot": signals init, which shuts the machine down in
 * order. The signals are busybox's.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -1;
    return close(fd);
}

static void panic(void)
{
    write_file("/proc/sysrq-trigger", "c");
}

/* Makes the kernel reboot by a triple fault. This overrides reboot= of the command line. */
static void triple_fault(void)
{
    if (!write_file("/sys/kernel/reboot/type", "triple"))
        reboot(RB_AUTOBOOT);
}

/* Pulses the keyboard controller's reset line, then writes the chipset's reset register. */
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
    static const struct { const char *name; void (*end)(void); } actions[] = {
        {"panic", panic}, {"triple-fault", triple_fault}, {"reset", reset}, {"power-off", power_off},
    };
    const char *slash = strrchr(argv[0], '/'), *self = slash ? slash + 1 : argv[0];

    if (!strcmp(self, "poweroff") || !strcmp(self, "reboot"))
        return kill(1, strcmp(self, "reboot") ? SIGUSR2 : SIGTERM) != 0;
    for (unsigned i = 0; argc == 2 && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(argv[1], actions[i].name))
            continue;
        sync();
        actions[i].end();
        fprintf(stderr, "hv-end: %s did not end the machine: %s\n", argv[1], strerror(errno));
        return 1;
    }
    fprintf(stderr, "usage: hv-end panic|triple-fault|reset|power-off\n");
    return 2;
}
