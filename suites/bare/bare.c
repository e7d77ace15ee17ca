/*
 * Times one case of an exit or an interrupt, in ring 0 without an operating system: B batches of N
 * operations. Prints one JSON object on the serial port (0x3f8) and halts:
 *
 *   {"case", "ops", "mul", "shift", "batches": [cycles, ...], "serial"}   or   {"error": cause}
 *
 * mul, shift: ns = (cycles << shift) * mul >> 32 (pvclock). serial: exits that the output caused
 * before this number.
 *
 * The harness writes the case and its counts into `parameters`, in the ELF file.
 * Sources: Linux' arch/x86/include/asm/pvclock-abi.h and uapi/asm/kvm_para.h.
 */
#include "bare.h"

#define SERIAL 0x3f8
#define LINE_STATUS (SERIAL + 5)
#define CAN_SEND 0x20
#define USER_PORT 0xd00             /* no device answers, so the exit reaches the VMM */
#define USER_MMIO 0xd0000000u       /* likewise */
#define EVENTFD_MMIO 0xd0001000u    /* a write signals an ioeventfd, if the VMM has set one */
#define UNKNOWN_HYPERCALL 0x7fffffff
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define KVM_FEATURE_CLOCKSOURCE2 (1 << 3)

/* The order of CASES in suites/bare/__init__.py. */
enum case_number {
    CONTROL, HYPERCALL, CPUID, MSR_READ, PIO_KERNEL, PIO_USER, MMIO_USER, MMIO_EVENTFD,
    IPI, IPI_HALT, TIMER, WORLD_SWITCH, IRQFD, CASES
};

static const char *const names[CASES] = {
    "control", "hypercall_null", "cpuid", "msr_read", "pio_kernel", "pio_user", "mmio_user",
    "mmio_eventfd", "ipi", "ipi_halt", "timer_latency", "world_switch",
    "irqfd",
};

volatile struct parameters parameters = {"HVPARAM", 0, 1, 1};
uint64_t cycles[MAX_BATCHES];

static uint64_t serial_exits;
/* struct pvclock_vcpu_time_info */
static volatile struct {
    uint32_t version, pad;
    uint64_t tsc, system;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
} clock __attribute__((aligned(64)));

static void print(const char *text)
{
    for (; *text; text++) {
        do
            serial_exits++;
        while (!(in8(LINE_STATUS) & CAN_SEND));
        out8(SERIAL, (uint8_t)*text);
        serial_exits++;
    }
}

static void print_number(uint64_t value)
{
    char digits[21], *at = digits + 20;

    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    print(at);
}

_Noreturn static void halt(void)
{
    for (;;)
        __asm__ volatile("cli\n hlt");
}

_Noreturn void fail(const char *error)
{
    print("{\"error\": \"");
    print(error);
    print("\"}\n");
    halt();
}

/* As in hv-exits: each iteration loads eax, ecx and edx, so that all cases have the same loop
 * overhead. */
#define CASE(name, body)                                                                  \
    static void name(uint64_t ops, uint32_t a, uint32_t c, uint32_t d)                    \
    {                                                                                     \
        __asm__ volatile(".balign 64\n"                                                   \
                         "1: mov %[a], %%eax\n mov %[c], %%ecx\n mov %[d], %%edx\n" body  \
                         "\n dec %[ops]\n jnz 1b"                                         \
                         : [ops] "+r"(ops)                                                \
                         : [a] "r"(a), [c] "r"(c), [d] "r"(d)                             \
                         : "rax", "rbx", "rcx", "rdx", "cc", "memory");                   \
    }

CASE(run_control, "")
CASE(run_vmcall, "vmcall")
CASE(run_vmmcall, "vmmcall")
CASE(run_cpuid, "cpuid")
CASE(run_rdmsr, "rdmsr")
CASE(run_in, "inb %%dx, %%al")
CASE(run_load, "movl (%%rdx), %%eax")
CASE(run_store, "movl %%eax, (%%rdx)")

static void measure(void (*run)(uint64_t, uint32_t, uint32_t, uint32_t), uint32_t a, uint32_t c,
                    uint32_t d)
{
    run(parameters.ops / 10 + 1, a, c, d);
    for (uint32_t i = 0; i < parameters.batches; i++) {
        uint64_t start = tsc_now();

        run(parameters.ops, a, c, d);
        cycles[i] = tsc_now() - start;
    }
}

static void init_kvmclock(void)
{
    uint32_t r[4];

    cpuid(0x40000000, r);
    if (r[1] != 0x4b4d564b || r[2] != 0x564b4d56 || r[3] != 0x4d)
        fail("CPUID does not report KVM");
    cpuid(0x40000001, r);
    if (!(r[0] & KVM_FEATURE_CLOCKSOURCE2))
        fail("CPUID does not report kvmclock");
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)&clock | 1);
    if (!clock.mul)
        fail("kvmclock is not updated");
}

static void run_case(uint32_t case_number)
{
    uint32_t r[4];

    switch (case_number) {
    case CONTROL:
        return measure(run_control, 0, 0, 0);
    case HYPERCALL:
        cpuid(0, r);
        return measure(r[1] == 0x68747541 || r[1] == 0x6f677948 ? run_vmmcall : run_vmcall,
                       UNKNOWN_HYPERCALL, 0, 0);
    case CPUID:
        return measure(run_cpuid, 0, 0, 0);
    case MSR_READ:
        return measure(run_rdmsr, 0, MSR_APIC_BASE, 0);
    case PIO_KERNEL:
        return measure(run_in, 0, 0, PIC_MASK_PORT);
    case PIO_USER:
        return measure(run_in, 0, 0, USER_PORT);
    case MMIO_USER:
        return measure(run_load, 0, 0, USER_MMIO);
    case MMIO_EVENTFD:
        return measure(run_store, 0, 0, EVENTFD_MMIO);
    case IPI:
        return measure_ipi(0);
    case IPI_HALT:
        return measure_ipi(1);
    case TIMER:
        return measure_timer();
    case WORLD_SWITCH:
        return measure_world_switch();
    case IRQFD:
        return measure_irqfd();
    }
}

void bare_main(void)
{
    if (parameters.case_number >= CASES || !parameters.ops || !parameters.batches
        || parameters.batches > MAX_BATCHES)
        fail("invalid parameters");
    init_kvmclock();
    run_case(parameters.case_number);
    print("{\"case\": \"");
    print(names[parameters.case_number]);
    print("\", \"ops\": ");
    print_number(parameters.ops);
    print(", \"mul\": ");
    print_number(clock.mul);
    print(", \"shift\": ");
    if (clock.shift < 0)
        print("-");
    print_number((uint64_t)(clock.shift < 0 ? -clock.shift : clock.shift));
    print(", \"batches\": [");
    for (uint32_t i = 0; i < parameters.batches; i++) {
        if (i)
            print(", ");
        print_number(cycles[i]);
    }
    print("], \"serial\": ");
    uint64_t before = serial_exits;
    print_number(before);
    print("}\n");
}
