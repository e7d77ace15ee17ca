/*
 * The interrupt cases: IPIs between two CPUs, the timer, and an eventfd that raises an interrupt.
 * The warm-up is one batch, which is not recorded.
 *
 * Sources: Intel SDM volume 3A, 10.12 (x2APIC), 10.5.4.1 (TSC deadline).
 */
#include "bare.h"

#define SECOND_PIC_MASK_PORT 0xa1
#define IRQFD_MMIO 0xd0002000u      /* a write signals an eventfd that is also an irqfd */
#define X2APIC_ENABLED 0xc00
#define X2APIC_ID 0x802
#define X2APIC_SPURIOUS 0x80f
#define X2APIC_ICR 0x830
#define X2APIC_TIMER 0x832
#define CPUID_X2APIC (1u << 21)
#define CPUID_TSC_DEADLINE (1u << 24)
#define TSC_DEADLINE_MODE (2 << 17)
#define MSR_TSC_DEADLINE 0x6e0
#define INIT 0x4500
#define STARTUP 0x4600
#define TRAMPOLINE 0x8000
#define IPI_VECTOR 0x40
#define TIMER_VECTOR 0x41
#define IRQFD_VECTOR 0x42
#define HALT_POLL_CYCLES 2000000    /* KVM stops polling for a halted vCPU before this */
#define TIMER_DELAY 300000          /* cycles from the write to the deadline */
#define TIMEOUT_CYCLES 20000000000ull

/* Written by the handlers in boot.S: number of IPIs, and TSC of the last other interrupt. */
volatile uint64_t ipi_count, handler_tsc;
static volatile uint64_t second_up, second_idle, second_stop, second_halts, second_replies;
static volatile uint64_t first_apic_id;
static struct { uint16_t low, selector, flags, middle; uint32_t high, zero; } idt[256];

extern char second_begin[], second_end[], on_ipi[], on_timer[];
void halt_while_equal(volatile uint64_t *value, uint64_t old);   /* call with interrupts off */

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
    if (!(r[2] & CPUID_X2APIC))
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
void measure_ipi(int halted)
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
void measure_world_switch(void)
{
    init_apic(CPUID_TSC_DEADLINE, "no TSC deadline");
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

void measure_timer(void)
{
    init_apic(CPUID_TSC_DEADLINE, "no TSC deadline");
    wrmsr(X2APIC_TIMER, TSC_DEADLINE_MODE | TIMER_VECTOR);
    measure_latency(set_timer, "the timer does not fire");
}

void measure_irqfd(void)
{
    init_apic(0, "");
    measure_latency(signal_irqfd, "an interrupt is lost");
}
