/*
 * hv-exits CASE --ops N --batches B [--port P]
 *
 * Times instructions that cause a VM exit, from ring 3, in B batches of N operations. Prints one
 * JSON object: {"case","ops","tsc_khz","batches":[{"ns","cycles"},...]}. All cases run the same
 * loop with a different body. "control" has an empty body: its cost is the loop's own.
 *
 *   control         empty body
 *   hypercall_null  vmcall or vmmcall; KVM returns -EPERM to ring 3 after a full round trip
 *   cpuid           leaf 0, which is always intercepted
 *   pio_user        inb from --port (0xd00: no device answers, so the exit reaches the VMM)
 *   pio_kernel      inb from 0x21, which the PIC inside KVM answers
 */
#define _GNU_SOURCE
#include "measure.h"

#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

#define UNKNOWN_HYPERCALL 0x7fffffff
#define DEFAULT_PORT 0xd00
#define PIC_MASK_PORT 0x21

typedef uint32_t loop(uint64_t ops, uint32_t a, uint32_t d);

/* Each iteration loads eax, ecx and edx again, so that all cases have the same loop overhead. */
#define CASE(name, body)                                                                  \
    static uint32_t name(uint64_t ops, uint32_t a, uint32_t d)                            \
    {                                                                                     \
        uint32_t result;                                                                  \
        __asm__ volatile(".balign 64\n"                                                   \
                         "1: mov %[a], %%eax\n xor %%ecx, %%ecx\n mov %[d], %%edx\n" body \
                         "\n dec %[ops]\n jnz 1b"                                         \
                         : [ops] "+r"(ops), "=&a"(result)                                 \
                         : [a] "r"(a), [d] "r"(d)                                         \
                         : "rbx", "rcx", "rdx", "cc", "memory");                          \
        return result;                                                                    \
    }

CASE(control, "")
CASE(vmcall, "vmcall")
CASE(vmmcall, "vmmcall")
CASE(do_cpuid, "cpuid")
CASE(do_inb, "inb %%dx, %%al")

static int fail(const char *what)
{
    fprintf(stderr, "hv-exits: %s\n", what);
    return 1;
}

static int usage(const char *what)
{
    fprintf(stderr,
            "hv-exits: %s\nusage: hv-exits control|hypercall_null|cpuid|pio_user|pio_kernel"
            " --ops N --batches B [--port P]\n", what);
    return 2;
}

static void on_fault(int signal)
{
    static const char text[] = "hv-exits: the instruction faulted; hint: run as root and in a VM of"
                               " this CPU vendor\n";

    (void)signal;
    if (write(2, text, sizeof text - 1) < 0)
        _exit(3);
    _exit(1);
}

static int is_amd(void)
{
    uint32_t a, b, c, d;

    __cpuid(0, a, b, c, d);
    return b == signature_AMD_ebx || b == 0x6f677948;   /* "Auth", "Hygo" */
}

static int measure(const char *name, loop *run, uint64_t ops, long batches, uint32_t a, uint32_t d)
{
    pin_to_current_cpu();
    run(ops / 10 + 1, a, d);   /* warm-up */
    print_header(name, ops);
    for (long i = 0; i < batches; i++) {
        uint64_t ns = ns_now(), tsc = tsc_now();
        run(ops, a, d);
        uint64_t cycles = tsc_now() - tsc;
        print_batch(i, ns_now() - ns, cycles);
    }
    return print_footer() ? fail("cannot write standard output") : 0;
}

int main(int argc, char **argv)
{
    uint64_t ops = 0, batches = 0, port = DEFAULT_PORT;

    if (argc < 2 || argc % 2)
        return usage("a case is required, and each option needs a value");
    for (int i = 2; i < argc; i += 2) {
        int ok = 0;
        if (!strcmp(argv[i], "--ops"))
            ok = parse_number(argv[i + 1], 1, 1ull << 40, &ops);
        else if (!strcmp(argv[i], "--batches"))
            ok = parse_number(argv[i + 1], 1, 1000000, &batches);
        else if (!strcmp(argv[i], "--port"))
            ok = parse_number(argv[i + 1], 0, 0xffff, &port);
        if (!ok)
            return usage(argv[i]);
    }
    if (!ops || !batches)
        return usage("--ops and --batches are required");

    const char *name = argv[1];
    signal(SIGILL, on_fault);
    signal(SIGSEGV, on_fault);
    if (!strcmp(name, "control"))
        return measure(name, control, ops, batches, 0, 0);
    if (!strcmp(name, "cpuid"))
        return measure(name, do_cpuid, ops, batches, 0, 0);
    if (!strcmp(name, "hypercall_null")) {
        loop *run = is_amd() ? vmmcall : vmcall;
        if ((int32_t)run(1, UNKNOWN_HYPERCALL, 0) >= 0)
            return fail("the null hypercall returned no error; this is not KVM");
        return measure(name, run, ops, batches, UNKNOWN_HYPERCALL, 0);
    }
    int user = !strcmp(name, "pio_user");
    if (!user && strcmp(name, "pio_kernel"))
        return usage("unknown case");
    if (iopl(3))
        return fail("iopl failed; hint: run as root");
    return measure(name, do_inb, ops, batches, 0, user ? port : PIC_MASK_PORT);
}
