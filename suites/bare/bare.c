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
 * Sources: Linux' arch/x86/include/asm/pvclock-abi.h and uapi/asm/kvm_para.h; Intel SDM volume 3A,
 * 10.12 (x2APIC), 10.5.4.1 (TSC deadline).
 */
#include <stddef.h>
#include <stdint.h>

#define SERIAL 0x3f8
#define LINE_STATUS (SERIAL + 5)
#define CAN_SEND 0x20
#define USER_PORT 0xd00             /* no device answers, so the exit reaches the VMM */
#define PIC_MASK_PORT 0x21
#define SECOND_PIC_MASK_PORT 0xa1
#define USER_MMIO 0xd0000000u       /* likewise */
#define EVENTFD_MMIO 0xd0001000u    /* a write signals an ioeventfd, if the VMM has set one */
#define IRQFD_MMIO 0xd0002000u      /* a write signals an eventfd that is also an irqfd */
#define UNKNOWN_HYPERCALL 0x7fffffff
#define MSR_APIC_BASE 0x1b
#define X2APIC_ENABLED 0xc00
#define X2APIC_ID 0x802
#define X2APIC_SPURIOUS 0x80f
#define X2APIC_ICR 0x830
#define X2APIC_TIMER 0x832
#define TSC_DEADLINE_MODE (2 << 17)
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define KVM_FEATURE_CLOCKSOURCE2 (1 << 3)
#define INIT 0x4500
#define STARTUP 0x4600
#define TRAMPOLINE 0x8000
#define IPI_VECTOR 0x40
#define TIMER_VECTOR 0x41
#define IRQFD_VECTOR 0x42
#define HALT_POLL_CYCLES 2000000    /* KVM stops polling for a halted vCPU before this */
#define TIMER_DELAY 300000          /* cycles from the write to the deadline */
#define TIMEOUT_CYCLES 20000000000ull
#define MAX_BATCHES 1000

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

volatile struct {
    char mark[8];
    uint32_t case_number, batches;
    uint64_t ops;
} parameters = {"HVPARAM", 0, 1, 1};

volatile uint64_t ipi_count, handler_tsc;
static volatile uint64_t second_up, second_idle, second_stop, second_halts, second_replies;
static volatile uint64_t first_apic_id;
static uint64_t cycles[MAX_BATCHES];
static uint64_t serial_exits;
static struct { uint16_t low, selector, flags, middle; uint32_t high, zero; } idt[256];
static volatile struct {
    uint32_t version, pad;
    uint64_t tsc, system;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
} clock __attribute__((aligned(64)));

extern char second_begin[], second_end[], on_ipi[], on_timer[];
void halt_while_equal(volatile uint64_t *value, uint64_t old);   /* call with interrupts off */

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

static inline void cpuid(uint32_t leaf, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

/* The fences keep earlier loads before the reading and later instructions after it (Intel SDM,
 * RDTSC). */
static inline uint64_t tsc_now(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence\n rdtsc\n lfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

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

_Noreturn static void fail(const char *error)
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

static void set_vector(int vector, const char *handler)
{
    uint64_t address = (uint64_t)handler;

    idt[vector].low = (uint16_t)address;
    idt[vector].selector = 0x18;
    idt[vector].flags = 0x8e00;
    idt[vector].middle = (uint16_t)(address >> 16);
    idt[vector].high = (uint32_t)(address >> 32);
}

static void enable_interrupts(void)
{
    struct { uint16_t limit; uint64_t base; } __attribute__((packed)) pointer = {
        sizeof idt - 1, (uint64_t)idt
    };

    __asm__ volatile("lidt %0" : : "m"(pointer));
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_ENABLED);
    wrmsr(X2APIC_SPURIOUS, 0x1ff);
}

/* Enables the x2APIC and the handlers. Fails with `error` if CPUID.1:ECX lacks `features`. */
static void init_apic(uint32_t features, const char *error)
{
    uint32_t r[4];

    cpuid(1, r);
    if (!(r[2] & (1u << 21)))
        fail("no x2APIC");
    if ((r[2] & features) != features)
        fail(error);
    out8(PIC_MASK_PORT, 0xff);   /* firmware may leave its timer running */
    out8(SECOND_PIC_MASK_PORT, 0xff);
    set_vector(IPI_VECTOR, on_ipi);
    set_vector(TIMER_VECTOR, on_timer);
    set_vector(IRQFD_VECTOR, on_timer);
    enable_interrupts();
}

static void wait_for(volatile uint64_t *value, uint64_t expected, const char *error)
{
    uint64_t start = tsc_now();

    while (*value != expected)
        if (tsc_now() - start > TIMEOUT_CYCLES)
            fail(error);
}

static void spin(uint64_t duration)
{
    uint64_t start = tsc_now();

    while (tsc_now() - start < duration)
        ;
}

/* Second CPU: answers each IPI with one to the first CPU, and halts in between. */
static void reply_to_ipis(void)
{
    for (uint64_t seen = 0; !second_stop; seen++) {
        halt_while_equal(&ipi_count, seen);
        wrmsr(X2APIC_ICR, first_apic_id << 32 | TIMER_VECTOR);
    }
}

void second_main(void)
{
    enable_interrupts();
    second_up = rdmsr(X2APIC_ID) + 1;
    if (second_replies)
        return reply_to_ipis();
    if (!second_halts)
        __asm__ volatile("sti");
    while (!second_stop) {
        if (second_halts) {
            uint64_t seen = ipi_count;

            second_idle = seen + 1;
            halt_while_equal(&ipi_count, seen);
        } else {
            __asm__ volatile("pause");
        }
    }
    __asm__ volatile("cli");
}

static uint32_t start_second(void)
{
    char *to = (char *)TRAMPOLINE;

    for (char *from = second_begin; from < second_end; from++)
        *to++ = *from;
    wrmsr(X2APIC_ICR, 1ull << 32 | INIT);
    spin(20000000);
    wrmsr(X2APIC_ICR, 1ull << 32 | STARTUP | TRAMPOLINE >> 12);
    uint64_t start = tsc_now();
    while (!second_up)
        if (tsc_now() - start > TIMEOUT_CYCLES)
            fail("no second CPU");
    return (uint32_t)second_up - 1;
}

/* Cycles from the sender's ICR write until it sees that the second CPU's handler ran. The second
 * CPU runs or is halted. */
static void measure_ipi(int halted)
{
    init_apic(0, "");
    second_halts = halted;
    uint64_t ipi_command = (uint64_t)start_second() << 32 | IPI_VECTOR;

    for (int64_t i = -1; i < parameters.batches; i++) {
        uint64_t sum = 0;

        for (uint64_t n = 0; n < parameters.ops; n++) {
            uint64_t expected = ipi_count + 1;

            if (halted) {
                wait_for(&second_idle, expected, "the second CPU does not halt");
                spin(HALT_POLL_CYCLES);
            }
            uint64_t start = tsc_now();
            wrmsr(X2APIC_ICR, ipi_command);
            while (ipi_count != expected)
                if (tsc_now() - start > TIMEOUT_CYCLES)
                    fail("an interrupt is lost");
            sum += tsc_now() - start;
        }
        if (i >= 0)
            cycles[i] = sum;
    }
    second_stop = 1;
    wrmsr(X2APIC_ICR, ipi_command);
}

/*
 * Two vCPUs alternate: each wakes the other by an IPI and halts. An operation is a round trip; the
 * result is half of it, one switch. The timer wakes the first vCPU if a reply is lost.
 */
static void measure_world_switch(void)
{
    init_apic(1u << 24, "no TSC deadline");
    second_replies = 1;
    first_apic_id = rdmsr(X2APIC_ID);
    wrmsr(X2APIC_TIMER, TSC_DEADLINE_MODE | TIMER_VECTOR);
    __asm__ volatile("mfence" : : : "memory");
    uint64_t ipi_command = (uint64_t)start_second() << 32 | IPI_VECTOR;

    for (int64_t i = -1; i < parameters.batches; i++) {
        uint64_t start = tsc_now();

        wrmsr(MSR_TSC_DEADLINE, start + TIMEOUT_CYCLES);
        for (uint64_t n = 0; n < parameters.ops; n++) {
            handler_tsc = 0;
            wrmsr(X2APIC_ICR, ipi_command);
            halt_while_equal(&handler_tsc, 0);
            if (handler_tsc - start >= TIMEOUT_CYCLES)
                fail("an interrupt is lost");
        }
        if (i >= 0)
            cycles[i] = (tsc_now() - start) / 2;
    }
    second_stop = 1;
    wrmsr(X2APIC_ICR, ipi_command);
}

static uint64_t set_timer(void)
{
    uint64_t deadline = tsc_now() + TIMER_DELAY;

    wrmsr(MSR_TSC_DEADLINE, deadline);
    return deadline;
}

/* Writes to the address of an ioeventfd that KVM also uses as an irqfd. */
static uint64_t signal_irqfd(void)
{
    uint64_t start = tsc_now();

    *(volatile uint32_t *)(uint64_t)IRQFD_MMIO = 1;
    return start;
}

/* Cycles from the time that `trigger` returns until the handler runs; 0 if the handler runs before
 * that time. */
static void measure_latency(uint64_t (*trigger)(void), const char *error)
{
    __asm__ volatile("mfence\n sti" : : : "memory");
    for (int64_t i = -1; i < parameters.batches; i++) {
        uint64_t sum = 0;

        for (uint64_t n = 0; n < parameters.ops; n++) {
            handler_tsc = 0;
            uint64_t due = trigger();
            while (!handler_tsc)
                if ((int64_t)(tsc_now() - due) > (int64_t)TIMEOUT_CYCLES)
                    fail(error);
            sum += handler_tsc > due ? handler_tsc - due : 0;
        }
        if (i >= 0)
            cycles[i] = sum;
    }
    __asm__ volatile("cli");
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
        init_apic(1u << 24, "no TSC deadline");
        wrmsr(X2APIC_TIMER, TSC_DEADLINE_MODE | TIMER_VECTOR);
        return measure_latency(set_timer, "the timer does not fire");
    case WORLD_SWITCH:
        return measure_world_switch();
    case IRQFD:
        init_apic(0, "");
        return measure_latency(signal_irqfd, "an interrupt is lost");
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
