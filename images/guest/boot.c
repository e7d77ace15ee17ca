/* The boot from the initramfs to the root file system: mounts, modules, keys, device links. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOT_DEADLINE_NS 10000000000LL
#define ROOT_DISK "root"

int is_host;
int is_container;   /* harness/agent/container.py has mounted all up to the root disk */
static int root_is_pmem;
static char disk_names[1024];
static int modules = -1;

long read_file(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t n = 0;

    buffer[0] = 0;
    if (fd < 0)
        return -1;
    while (length < size - 1 && (n = read(fd, buffer + length, size - 1 - length)) > 0)
        length += n;
    close(fd);
    buffer[length] = 0;
    return n < 0 ? -1 : (long)length;
}

static void write_file(const char *path, const char *text, size_t length, int mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

    if (fd < 0 || write(fd, text, length) != (ssize_t)length)
        die(path);
    close(fd);
}

static void must_mount(const char *type, const char *target, unsigned long flags, const char *data)
{
    if (mount(type, target, type, flags, data))
        die(target);
}

void mount_early(void)
{
    char mode[16];
    int null;

    is_container = !access("/harness/cmdline", F_OK);
    if (is_container)
        return;
    must_mount("proc", "/proc", 0, NULL);
    must_mount("sysfs", "/sys", 0, NULL);
    must_mount("devtmpfs", "/dev", 0, "mode=0755");
    do {   /* without a console, descriptors 0, 1, 2 are still free */
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
    } while (null >= 0 && null <= 2);
    close(null);
    read_file("/harness/mode", mode, sizeof mode);
    is_host = !strcmp(mode, "host");
    read_file("/harness/ip", default_ip, sizeof default_ip);
}

int read_option(const char *name, char *value, size_t size)
{
    static char line[4096];
    size_t length = strlen(name);

    read_file("/proc/cmdline", line, sizeof line);
    *value = 0;
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
        if (!strncmp(word, name, length) && word[length] == '=')
            snprintf(value, size, "%s", word + length + 1);
    return *value != 0;
}

/* The list is in load order; without `load` its files are only removed. */
static void load_list(const char *name, int load)
{
    static char list[4096];
    char file[64];
    int fd = openat(modules, name, O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, list, sizeof list - 1);

    if (length < 0)
        die(name);
    close(fd);
    list[length] = 0;
    for (char *module = strtok(list, "\n"); module; module = strtok(NULL, "\n")) {
        snprintf(file, sizeof file, "%s.ko", module);
        fd = openat(modules, file, O_RDONLY | O_CLOEXEC);
        /* not fatal: an emulated host without SVM can still report that it has no KVM */
        if (load && (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)))
            log_line("module %s: %s", module, strerror(errno));
        close(fd);
        unlinkat(modules, file, 0);   /* the initramfs occupies memory */
    }
}

void load_modules(void)
{
    char root[16], command_line[4096];

    /* keep it open: the initramfs has no path after the switch to the root disk */
    if ((modules = open("/harness", O_DIRECTORY | O_CLOEXEC)) < 0)
        die("modules");
    read_option("harness.root", root, sizeof root);
    root_is_pmem = !strcmp(root, "pmem");
    read_option("harness.disks", disk_names, sizeof disk_names);
    load_list("modules", 1);
    load_list("modules.pmem", root_is_pmem);
    read_file("/proc/cmdline", command_line, sizeof command_line);
    if (strstr(command_line, "console=hvc"))
        load_late_modules();
}

/* Modules that neither the root disk nor SSH needs. */
void load_late_modules(void)
{
    if (modules >= 0)
        load_list("modules.late", 1);
    close(modules);
    modules = -1;
}

/*
 * A disk's name: from harness.disks=NAME,NAME,... on the kernel command line, else its serial number.
 * The list is in the order of PCI slots, so of vda, vdb and so on. It exists because vhost-user
 * devices have no serial numbers.
 */
static int name_disk(const char *device, char *name, size_t size)
{
    char path[300];
    int number = 0;

    for (const char *letter = device + 2; *letter; letter++)
        number = number * 26 + *letter - 'a' + 1;
    const char *start = disk_names;
    while (--number && (start = strchr(start, ',')))
        start++;
    if (start && *start) {
        snprintf(name, size, "%.*s", (int)strcspn(start, ","), start);
        return *name != 0;
    }
    snprintf(path, sizeof path, "/sys/block/%s/serial", device);
    if (read_file(path, name, size) <= 0)
        return 0;
    name[strcspn(name, "\n")] = 0;
    return *name != 0;
}

/* Calls visit() with device ("vda") and name of each virtio disk until it returns true. */
static int each_disk(int (*visit)(const char *device, const char *name))
{
    DIR *disks = opendir("/sys/block");
    struct dirent *entry;
    char name[32];
    int done = 0;

    if (!disks)
        return 0;
    while (!done && (entry = readdir(disks))) {
        if (!strncmp(entry->d_name, "vd", 2) && name_disk(entry->d_name, name, sizeof name))
            done = visit(entry->d_name, name);
    }
    closedir(disks);
    return done;
}

static int try_root(const char *device, const char *name)
{
    char path[300];

    if (strcmp(name, ROOT_DISK))
        return 0;
    snprintf(path, sizeof path, "/dev/%s", device);
    if (mount(path, "/newroot", "ext4", MS_NOATIME | (is_host ? 0 : MS_RDONLY), NULL))
        die("mount of the root disk");
    return 1;
}

/* DAX maps the host's page cache: no I/O, and no copy in the guest's memory. */
static int try_pmem(void)
{
    if (access("/dev/pmem0", F_OK))
        return 0;
    if (mount("/dev/pmem0", "/newroot", "ext4", MS_NOATIME | MS_RDONLY, "dax"))
        die("mount of /dev/pmem0");
    return 1;
}

void mount_root(void)
{
    long long deadline = now_ns() + ROOT_DEADLINE_NS;

    while (!(root_is_pmem ? try_pmem() : each_disk(try_root))) {
        if (now_ns() > deadline) {
            errno = ETIMEDOUT;
            die(root_is_pmem ? "no /dev/pmem0 after 10 s"
                             : "no virtio disk named \"" ROOT_DISK "\" after 10 s");
        }
        sleep_us(1000);
    }
}

/* Keys are in the initramfs, so that all users have the same disk. */
static void install(const char *from, const char *to, int mode)
{
    char data[4096];
    long length = read_file(from, data, sizeof data);

    if (length < 0)
        die(from);
    write_file(to, data, length, mode);
}

void enter_root(void)
{
    static const char *const mounts[] = {"/dev", "/proc", "/sys"};
    static const char *const scratch[] = {"/tmp", "/var/tmp", "/var/log", "/root"};
    char target[64];

    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        snprintf(target, sizeof target, "/newroot%s", mounts[i]);
        if (mount(mounts[i], target, NULL, MS_MOVE, NULL))
            die(target);
    }
    must_mount("tmpfs", "/newroot/run", MS_NOSUID | MS_NODEV, "mode=0755");
    for (size_t i = 0; !is_host && i < sizeof scratch / sizeof *scratch; i++) {
        snprintf(target, sizeof target, "/newroot%s", scratch[i]);
        must_mount("tmpfs", target, 0, strcmp(scratch[i], "/root") ? "mode=1777" : "mode=0700");
    }
    mkdir("/newroot/run/harness", 0755);
    mkdir("/newroot/run/sshd", 0755);
    mkdir("/newroot/root/.ssh", 0700);
    install("/identity/authorized_keys", "/newroot/run/harness/authorized_keys", 0644);
    install("/identity/authorized_keys", "/newroot/root/.ssh/authorized_keys", 0600);
    if (is_host)
        install("/identity/ssh_host_ed25519_key", "/newroot/run/harness/ssh_host_ed25519_key", 0600);
    else
        install("/identity/dropbear_key", "/newroot/run/harness/dropbear_key", 0600);
    if (chdir("/newroot") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
        die("switch to the root disk");
}

static int link_disk(const char *device, const char *name)
{
    char path[64], target[300];

    if (!strchr(name, '/')) {
        snprintf(path, sizeof path, "/dev/disk/by-serial/%s", name);
        snprintf(target, sizeof target, "../../%s", device);
        if (symlink(target, path) && errno != EEXIST)
            log_line("link %s: %s", path, strerror(errno));
    }
    return 0;   /* visit the next disk */
}

void set_up_root(void)
{
    const char *name = is_host ? "host" : "guest";

    umask(022);
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mkdir("/dev/disk", 0755);
    mkdir("/dev/disk/by-serial", 0755);
    must_mount("devpts", "/dev/pts", 0, "gid=5,mode=620,ptmxmode=666");
    /* A host uses huge pages for files that are created with their full size. Clones then take
     * fewer page faults when they read a snapshot's memory. */
    must_mount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV,
               is_host ? "mode=1777,huge=within_size" : "mode=1777");
    if (symlink("/proc/self/fd", "/dev/fd") || symlink("fd/0", "/dev/stdin")
        || symlink("fd/1", "/dev/stdout") || symlink("fd/2", "/dev/stderr"))
        die("links in /dev");
    if (!is_container) {
        mount_cgroups();
        each_disk(link_disk);
    }
    if (is_host)
        mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
    if (sethostname(name, strlen(name)))
        die("host name");
}

