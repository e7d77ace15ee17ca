/*
 * run_loop PAYLOAD BYTES: a minimal KVM run loop, to compare the built-in VMM with.
 *
 * Runs a flat payload in 32-bit protected mode. Port reads return all ones, as the built-in VMM
 * returns for a port without a device. The payload ends by a write to the serial port; the program
 * then prints BYTES of guest memory from DATA. As in the built-in VMM, the irqchip and the PIT are
 * in the kernel.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (16u << 20)
#define BASE 0x100000u
#define DATA 0x200000u
#define SERIAL 0x3f8

static int checked_ioctl(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);

    if (result < 0)
        err(1, "ioctl %#lx", request);
    return result;
}

static int create_vm(int kvm, void *memory)
{
    int vm = checked_ioctl(kvm, KVM_CREATE_VM, NULL);
    struct kvm_pit_config pit = {0};
    struct kvm_userspace_memory_region region = {
        .memory_size = MEMORY,
        .userspace_addr = (uintptr_t)memory,
    };

    checked_ioctl(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
    checked_ioctl(vm, KVM_CREATE_IRQCHIP, NULL);
    checked_ioctl(vm, KVM_CREATE_PIT2, &pit);
    checked_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
    return vm;
}

static void set_protected_mode(int vcpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = BASE, .rsp = 0x9f000, .rflags = 2};
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1,
    };

    checked_ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.cs = data;
    sregs.cs.selector = 8;
    sregs.cs.type = 0xb;
    sregs.cr0 = 1;
    checked_ioctl(vcpu, KVM_SET_SREGS, &sregs);
    checked_ioctl(vcpu, KVM_SET_REGS, &regs);
}

/* Runs the vCPU until it writes to the serial port. */
static void run_until_serial_write(int vcpu, struct kvm_run *run)
{
    for (;;) {
        checked_ioctl(vcpu, KVM_RUN, NULL);
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "unexpected exit reason %u", run->exit_reason);
        if (run->io.direction == KVM_EXIT_IO_IN)
            memset((char *)run + run->io.data_offset, 0xff, run->io.size * run->io.count);
        else if (run->io.port == SERIAL)
            return;
    }
}

int main(int argc, char **argv)
{
    int kvm, vcpu, file;
    struct kvm_run *run;
    size_t size, written = 0;
    char *memory;
    ssize_t count;

    if (argc != 3)
        errx(2, "usage: run_loop PAYLOAD BYTES");
    size = strtoul(argv[2], NULL, 10);
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    file = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (kvm < 0 || file < 0 || size > MEMORY - DATA)
        err(1, "%s", kvm < 0 ? "/dev/kvm" : argv[1]);
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || read(file, memory + BASE, DATA - BASE) <= 0)
        err(1, "guest memory");
    vcpu = checked_ioctl(create_vm(kvm, memory), KVM_CREATE_VCPU, NULL);
    run = mmap(NULL, checked_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE,
               MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "struct kvm_run");
    set_protected_mode(vcpu);
    run_until_serial_write(vcpu, run);
    for (; written < size; written += count)
        if ((count = write(1, memory + DATA + written, size - written)) <= 0)
            err(1, "write");
    return 0;
}
