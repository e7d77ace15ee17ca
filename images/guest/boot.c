/* From the initramfs to the root file system: mounts, modules, identity, device links. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOT_DEADLINE_NS 10000000000LL
#define ROOT_DISK "root"

int is_host;
int is_container;   /* everything up to the root disk was mounted by harness/agent/container.py */
static int root_is_pmem;
static char disk_names[1024];
static int modules = -1;

long read_file(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t got = 0;
    ssize_t n = 0;

    buffer[0] = 0;
    if (fd < 0)
        return -1;
    while (got < size - 1 && (n = read(fd, buffer + got, size - 1 - got)) > 0)
        got += n;
    close(fd);
    buffer[got] = 0;
    return n < 0 ? -1 : (long)got;
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
    do {   /* without a console, 0, 1, 2 are not taken yet */
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
    } while (null >= 0 && null <= 2);
    close(null);
    read_file("/harness/mode", mode, sizeof mode);
    is_host = !strcmp(mode, "host");
    read_file("/harness/ip", ip_default, sizeof ip_default);
}

int option(const char *name, char *value, size_t size)
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

/* In the order found when the image was built: each after those it depends on. */
static void load_list(const char *name, int wanted)
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
        /* Not fatal: an emulated host without SVM can still say that it has no KVM. */
        if (wanted && (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)))
            say("module %s: %s", module, strerror(errno));
        close(fd);
        unlinkat(modules, file, 0);   /* the initramfs stays in memory otherwise */
    }
}

void load_modules(void)
{
    char root[16], command_line[4096];

    /* open from here on: the initramfs has no path any more when the root disk is the root */
    if ((modules = open("/harness", O_DIRECTORY | O_CLOEXEC)) < 0)
        die("modules");
    option("harness.root", root, sizeof root);
    root_is_pmem = !strcmp(root, "pmem");
    option("harness.disks", disk_names, sizeof disk_names);
    load_list("modules", 1);
    load_list("modules.pmem", root_is_pmem);
    read_file("/proc/cmdline", command_line, sizeof command_line);
    if (strstr(command_line, "console=hvc"))
        load_late_modules();
}

/* What neither the root disk nor SSH waits for. */
void load_late_modules(void)
{
    if (modules >= 0)
        load_list("modules.late", 1);
    close(modules);
    modules = -1;
}

/*
 * A disk's name for people: by harness.disks=NAME,NAME,... of the kernel command line, in the order
 * of the PCI slots, which is that of vda, vdb and so on (vhost-user devices have no serial numbers
 * of their own), else its serial number.
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

/* Calls back with device ("vda") and name of each virtio disk until it returns true. */
static int each_disk(int (*visit)(const char *device, const char *name))
{
    DIR *disks = opendir("/sys/block");
    struct dirent *entry;
    char name[32];
    int found = 0;

    if (!disks)
        return 0;
    while (!found && (entry = readdir(disks))) {
        if (!strncmp(entry->d_name, "vd", 2) && name_disk(entry->d_name, name, sizeof name))
            found = visit(entry->d_name, name);
    }
    closedir(disks);
    return found;
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

/* Straight from the host's page cache: neither I/O nor a copy in the guest's own memory. */
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
        nap_us(1000);
    }
}

/* Keys come with the initramfs, not the disk, so that the disk is the same for everybody. */
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
    static const char *const moved[] = {"/dev", "/proc", "/sys"};
    static const char *const scratch[] = {"/tmp", "/var/tmp", "/var/log", "/root"};
    char target[64];

    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        snprintf(target, sizeof target, "/newroot%s", moved[i]);
        if (mount(moved[i], target, NULL, MS_MOVE, NULL))
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
            say("link %s: %s", path, strerror(errno));
    }
    return 0;   /* go on */
}

static void mount_cgroups(void)
{
    static const char *const controllers[] = {"+cpu", "+cpuset", "+io", "+memory", "+pids"};

    /* a host's guests come and go: without this (Linux 6.0) each that joins its cgroup, and each
     * vhost device, waits for all CPUs to have come by, tens of milliseconds */
    if ((!is_host || mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "favordynmods"))
        && mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL))
        return;
    for (size_t i = 0; i < sizeof controllers / sizeof *controllers; i++) {
        /* one at a time: a kernel without one of them refuses the whole list */
        int fd = open("/sys/fs/cgroup/cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, controllers[i], strlen(controllers[i])) < 0)
            say("cgroup controller %s: %s", controllers[i], strerror(errno));
        close(fd);
    }
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
    /* of huge pages in a host, for files that begin by their full size: what clones read in a
     * snapshot's memory then costs fewer faults */
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

static void start_cpus(void)
{
    char path[64];

    for (int cpu = 1;; cpu++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            return;
        if (write(fd, "1", 1) != 1)
            say("cpu%d: %s", cpu, strerror(errno));
        close(fd);
    }
}

/* A setting of the kernel's. */
static void tell(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        say("%s: %s", path, strerror(errno));
    close(fd);
}

/*
 * QEMU's cpu_clear_ignne() writes the first CPU's hflags2 from whichever CPU loads an FPU state,
 * with nothing to keep that CPU's own writes from being lost: those of VMRUN and #VMEXIT, that it
 * is in a guest now or no more. Then that CPU walks the wrong page tables, or takes no interrupt
 * ever again. So nobody but the kernel gets it: guests of KVM run on the others.
 */
static void keep_first_cpu_free(void)
{
    char present[64], rest[16];
    int last = 0;

    read_file("/sys/devices/system/cpu/present", present, sizeof present);
    if (sscanf(present, "0-%d", &last) != 1 || last < 1) {
        say("one CPU alone: guests of KVM may come to harm");
        return;
    }
    snprintf(rest, sizeof rest, "1-%d", last);
    /* the one in which the agent makes the guests' own (harness/agent/cgroup.py) */
    if (mkdir("/sys/fs/cgroup/pytest-hypervisor", 0755))
        say("cgroup: %s", strerror(errno));
    tell("/sys/fs/cgroup/pytest-hypervisor/cpuset.cpus", rest);
    /* so that it stays when an agent has ended */
    if (mkdir("/sys/fs/cgroup/pytest-hypervisor/held", 0755))
        say("cgroup: %s", strerror(errno));
}

/* Once they run: SSH and all that it starts. */
static void leave_first_cpu(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) || CPU_COUNT(&set) < 2)
        return;
    CPU_CLR(0, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        say("affinity: %s", strerror(errno));
}

/*
 * Linux patches its own code when the first cgroup and the first virtual machine come, and when
 * the last goes. QEMU before 8.1 may translate such code while another CPU writes it, and then
 * spin for ever in an int3 that is no longer there. So an emulated host boots with one CPU
 * (maxcpus=1); here, alone, it makes one cgroup and one machine that stay, and starts the others.
 */
void settle_host(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1;

    /* memory files, too, may have the huge pages that a VMM asks for guest memory */
    tell("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
    if (mkdir("/sys/fs/cgroup/held", 0755) && errno != EEXIST)
        say("cgroup: %s", strerror(errno));
    /* the first limit of CPU time is another such switch */
    tell("/sys/fs/cgroup/held/cpu.max", "100000");
    /* with its local APIC, whose state has a switch of that kind, too */
    if (kvm >= 0 && ((vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0 || ioctl(vm, KVM_CREATE_IRQCHIP)
                     || ioctl(vm, KVM_CREATE_VCPU, 0) < 0))
        say("virtual machine: %s", strerror(errno));
    keep_first_cpu_free();
    start_cpus();
    leave_first_cpu();
}
