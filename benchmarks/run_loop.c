/*
 * The least that a run loop can be: runs a flat payload in 32-bit protected mode and answers port
 * reads with all ones, as the built-in VMM does where nothing is. The payload's first write to the
 * serial port is its end; then guest memory from DATA on goes to standard output.
 *
 *     run_loop PAYLOAD BYTES
 *
 * The machine is made of the same parts as the built-in VMM's: in-kernel irqchip and PIT.
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

static int control(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);

    if (result < 0)
        err(1, "ioctl %#lx", request);
    return result;
}

static int make_vm(int kvm, void *memory)
{
    int vm = control(kvm, KVM_CREATE_VM, NULL);
    struct kvm_pit_config pit = {0};
    struct kvm_userspace_memory_region region = {
        .memory_size = MEMORY,
        .userspace_addr = (uintptr_t)memory,
    };

    control(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
    control(vm, KVM_CREATE_IRQCHIP, NULL);
    control(vm, KVM_CREATE_PIT2, &pit);
    control(vm, KVM_SET_USER_MEMORY_REGION, &region);
    return vm;
}

static void protected_mode(int vcpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = BASE, .rsp = 0x9f000, .rflags = 2};
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1,
    };

    control(vcpu, KVM_GET_SREGS, &sregs);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.cs = data;
    sregs.cs.selector = 8;
    sregs.cs.type = 0xb;
    sregs.cr0 = 1;
    control(vcpu, KVM_SET_SREGS, &sregs);
    control(vcpu, KVM_SET_REGS, &regs);
}

/* Returns at the first write to the serial port. */
static void loop(int vcpu, struct kvm_run *run)
{
    for (;;) {
        control(vcpu, KVM_RUN, NULL);
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "exit %u", run->exit_reason);
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
    size_t size, done = 0;
    char *memory;
    ssize_t got;

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
    vcpu = control(make_vm(kvm, memory), KVM_CREATE_VCPU, NULL);
    run = mmap(NULL, control(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE,
               MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "struct kvm_run");
    protected_mode(vcpu);
    loop(vcpu, run);
    for (; done < size; done += got)
        if ((got = write(1, memory + DATA + done, size - done)) <= 0)
            err(1, "write");
    return 0;
}
