/*
 * From a PVH entry to 64-bit C: page tables that map 4 GiB to themselves, descriptors, a stack; the
 * same for a second CPU, which starts in real mode; and what the two interrupts do.
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
to_long:                        /* edi: where to go on */
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

/* Copied to 0x8000, where a second CPU starts. */
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

/* Halts for as long as (rdi) is rsi, which an interrupt changes. One between the look and the halt
 * makes it look again, also on a CPU that loses the shadow of an STI. */
.globl halt_until_not
halt_until_not:
    cmp %rsi, (%rdi)
    jne 1f
    sti
about_to_halt:
    hlt
    cli
    jmp halt_until_not
1:  ret

/* An interrupt from the other CPU: count it. */
.globl on_ipi, on_timer
on_ipi:
    push %rax
    push %rcx
    push %rdx
    incq acknowledged(%rip)
end_of_interrupt:
    lea about_to_halt(%rip), %rax
    cmp %rax, 24(%rsp)          /* where it came */
    jne 1f
    incq 24(%rsp)               /* past the halt */
1:
    mov $X2APIC_EOI, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
    pop %rcx
    pop %rax
    iretq

/* The timer, or an eventfd: when it came. */
on_timer:
    push %rax
    push %rcx
    push %rdx
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    mov %rax, fired(%rip)
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
