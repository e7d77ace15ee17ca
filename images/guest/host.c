/* What an emulated host needs beyond a guest: cgroups, and the order in which its CPUs start. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

void mount_cgroups(void)
{
    static const char *const controllers[] = {"+cpu", "+cpuset", "+io", "+memory", "+pids"};

    /* Guests join cgroups on a host. Without favordynmods (Linux 6.0) each join, and each vhost
     * device, waits tens of milliseconds for an RCU grace period. */
    if ((!is_host || mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "favordynmods"))
        && mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL))
        return;
    for (size_t i = 0; i < sizeof controllers / sizeof *controllers; i++) {
        /* one at a time: a kernel that lacks one controller refuses the whole list */
        int fd = open("/sys/fs/cgroup/cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, controllers[i], strlen(controllers[i])) < 0)
            log_line("cgroup controller %s: %s", controllers[i], strerror(errno));
        close(fd);
    }
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
            log_line("cpu%d: %s", cpu, strerror(errno));
        close(fd);
    }
}

/* Writes a setting of the kernel. */
static void write_setting(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        log_line("%s: %s", path, strerror(errno));
    close(fd);
}

/*
 * QEMU's cpu_clear_ignne() writes the first CPU's hflags2 from any CPU that loads an FPU state,
 * without a lock. It can undo the first CPU's own writes at VMRUN and #VMEXIT, which record whether
 * the CPU is in a guest. That CPU then walks the wrong page tables, or takes no interrupt any more.
 * So only the kernel uses the first CPU, and guests of KVM run on the others.
 */
static void reserve_first_cpu(void)
{
    char present[64], others[16];
    int last = 0;

    read_file("/sys/devices/system/cpu/present", present, sizeof present);
    if (sscanf(present, "0-%d", &last) != 1 || last < 1) {
        log_line("only one CPU: guests of KVM may crash");
        return;
    }
    snprintf(others, sizeof others, "1-%d", last);
    /* the parent of the guests' cgroups (harness/agent/cgroup.py) */
    if (mkdir("/sys/fs/cgroup/pytest-hypervisor", 0755))
        log_line("cgroup: %s", strerror(errno));
    write_setting("/sys/fs/cgroup/pytest-hypervisor/cpuset.cpus", others);
    /* with a child, the parent outlives an agent */
    if (mkdir("/sys/fs/cgroup/pytest-hypervisor/permanent", 0755))
        log_line("cgroup: %s", strerror(errno));
}

/* After the other CPUs run: moves init and its children, so also SSH. */
static void leave_first_cpu(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) || CPU_COUNT(&set) < 2)
        return;
    CPU_CLR(0, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        log_line("affinity: %s", strerror(errno));
}

/*
 * Linux patches its own code when the first cgroup or virtual machine is created and when the last
 * one is destroyed (static keys). QEMU before 8.1 may translate such code while another CPU writes
 * it, and then spins for ever in an int3 that the kernel has already removed. So an emulated host
 * boots with one CPU (maxcpus=1). On this CPU it creates one permanent cgroup and one permanent
 * machine, and only then starts the other CPUs.
 */
void prepare_host(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1;

    /* memory files of guests may have huge pages as well, at the VMM's request */
    write_setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
    if (mkdir("/sys/fs/cgroup/permanent", 0755) && errno != EEXIST)
        log_line("cgroup: %s", strerror(errno));
    /* the first limit of CPU time switches another static key */
    write_setting("/sys/fs/cgroup/permanent/cpu.max", "100000");
    /* its local APIC has a static key as well */
    if (kvm >= 0 && ((vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0 || ioctl(vm, KVM_CREATE_IRQCHIP)
                     || ioctl(vm, KVM_CREATE_VCPU, 0) < 0))
        log_line("virtual machine: %s", strerror(errno));
    reserve_first_cpu();
    start_cpus();
    leave_first_cpu();
}
