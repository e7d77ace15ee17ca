/* Shared by the parts of the bare program: parameters, results, and access to the CPU. */
#ifndef HARNESS_BARE_H
#define HARNESS_BARE_H

#include <stdint.h>

#define PIC_MASK_PORT 0x21
#define MSR_APIC_BASE 0x1b
#define MAX_BATCHES 1000

/* The harness writes this structure, in the ELF file. */
extern volatile struct parameters {
    char mark[8];
    uint32_t case_number, batches;
    uint64_t ops;
} parameters;

/* TSC cycles of each batch */
extern uint64_t cycles[MAX_BATCHES];

/* Prints {"error": ...} on the serial port, and halts. */
_Noreturn void fail(const char *error);

/* interrupts.c */
void measure_ipi(int halted);
void measure_timer(void);
void measure_irqfd(void);
void measure_world_switch(void);

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

#endif
