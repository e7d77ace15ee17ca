/*
 * From a PVH entry to 64-bit C: identity page tables of 4 GiB, segment descriptors and a stack.
 * The second CPU starts in real mode and takes the same path. Also the interrupt handlers.
 *
 * Sources: Xen's docs/misc/pvh.pandoc (entry state, note); Intel SDM volume 3A, 9.8.5 (to IA-32e
 * mode), 8.4.4 (starting a second CPU), 10.12 (x2APIC).
 */
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define CR0_PE 1
#define CR0_PG_PE 0x80000001
#define X2APIC_EOI 0x80b

.section .note.Xen, "a", @note
    .align 4
    .long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

.text
.code32
.globl _start
_start:
    cli
    lgdt gdt_pointer
    mov $boot_stack, %esp
    mov $begin64, %edi
to_long:                        /* edi: where to continue */
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %cr4, %eax
    or $CR4_PAE, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov %cr0, %eax
    or $CR0_PG_PE, %eax
    mov %eax, %cr0
    ljmp $0x18, $1f
.code64
1:  mov %edi, %eax
    jmp *%rax
begin64:
    call bare_main
2:  cli
    hlt
    jmp 2b

/* The startup code of the second CPU, copied to 0x8000. */
.globl second_begin, second_end
.code16
second_begin:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl second_gdt - second_begin + 0x8000
    mov $CR0_PE, %eax
    mov %eax, %cr0
    ljmpl $8, $second32
second_gdt:
    .word gdt_end - gdt - 1
    .long gdt
second_end:
.code32
second32:
    mov $second_stack, %esp
    mov $second64, %edi
    jmp to_long
.code64
second64:
    call second_main
    jmp 2b

/* Halts while (rdi) equals rsi; an interrupt handler changes it. An interrupt may come between the
 * comparison and the HLT, on a CPU without the STI shadow. The handler then skips the HLT. */
.globl halt_while_equal
halt_while_equal:
    cmp %rsi, (%rdi)
    jne 1f
    sti
about_to_halt:
    hlt
    cli
    jmp halt_while_equal
1:  ret

/* Handler of the IPI: counts it. */
.globl on_ipi, on_timer
on_ipi:
    push %rax
    push %rcx
    push %rdx
    incq ipi_count(%rip)
end_of_interrupt:
    lea about_to_halt(%rip), %rax
    cmp %rax, 24(%rsp)          /* the interrupted RIP */
    jne 1f
    incq 24(%rsp)               /* skip the one-byte HLT */
1:
    mov $X2APIC_EOI, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
    pop %rcx
    pop %rax
    iretq

/* Handler of the timer and the irqfd: stores the TSC. */
on_timer:
    push %rax
    push %rcx
    push %rdx
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    mov %rax, handler_tsc(%rip)
    jmp end_of_interrupt

.section .rodata
    .align 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

.data
    .align 4096
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad directories + 3, directories + 0x1003, directories + 0x2003, directories + 0x3003
    .fill 508, 8, 0
directories:
    .set page, 0
    .rept 2048
    .quad (page << 21) + 0x83
    .set page, page + 1
    .endr

.bss
    .align 16
    .skip 16384
boot_stack:
    .skip 16384
second_stack:

.section .note.GNU-stack, "", @progbits
