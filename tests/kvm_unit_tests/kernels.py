"""Small kernels with the interface of kvm-unit-tests. The tests build them."""

from __future__ import annotations

import subprocess
from pathlib import Path

BASE = 0x40_0000

START = """
.code32
.section .head, "ax"
    .long 0x1badb002, 0, -0x1badb002
.text
.globl _start
_start:
    cmp $0x2badb002, %eax ; jne broken
    mov $stack, %esp
    mov %ebx, info
    call main
broken:
    mov $99, %eax
exit:                       /* with the code in eax */
    mov $0xf4, %dx ; out %eax, %dx
1:  hlt ; jmp 1b

puts:                       /* the text at esi */
    mov $0x3f8, %dx
1:  lodsb ; test %al, %al ; jz 2f
    out %al, %dx ; jmp 1b
2:  ret

fw_cfg:                     /* the 16-bit item in ax, into eax */
    mov $0x510, %dx ; out %ax, %dx
    inc %dx ; in %dx, %al ; movzbl %al, %ecx
    in %dx, %al ; movzbl %al, %eax ; shl $8, %eax ; or %ecx, %eax
    ret

.macro say text
    mov $7f, %esi ; call puts
    .pushsection .data ; 7: .asciz "\\text" ; .popsection
.endm
.macro leave code
    mov $\\code, %eax ; jmp exit
.endm

.bss
    .skip 4096
stack:
info: .skip 4
.text
main:
"""

SUMMARY = 'say "SUMMARY: 1 tests\\n"\n'
PASS = 'say "PASS: all is well\\n"\n' + SUMMARY + "leave 0\n"
FAIL = 'say "FAIL: it is not well\\n"\nsay "SUMMARY: 1 tests, 1 unexpected failures\\n"\nleave 1\n'
SKIP = 'say "SKIP: nothing to see\\n"\nleave 38\n'
HANG = 'say "here it stays\\n"\n1: hlt\njmp 1b\n'


def build(source: str, path: Path, addresses: bool = False) -> bytes:
    """Build a Multiboot kernel at `path` whose `main` is `source`. Returns its bytes.

    addresses: build a flat file that the header's addresses describe, not an ELF file.
    """
    text = START + source
    if addresses:
        start, end = f"{BASE:#x}", "_end"
        fields = f"0x10000, -(0x1badb002 + 0x10000), {start}, {start}, {end}, 0, _start"
        text = text.replace("0, -0x1badb002", fields)
    assembly, object_file = path.with_suffix(".S"), path.with_suffix(".o")
    assembly.write_text(text)
    script = path.with_suffix(".lds")
    script.write_text(
        f"ENTRY(_start) SECTIONS {{ . = {BASE:#x}; "
        ".all : { *(.head) *(.text) *(.data) *(.bss) *(COMMON) } _end = .; }"
    )
    # linked for 64 bits, then converted to 32 bits, like kvm-unit-tests
    for argv in (
        ["as", "--64", "-o", object_file, assembly],
        [
            "ld",
            "-m",
            "elf_x86_64",
            "-z",
            "max-page-size=4096",
            "-T",
            script,
            "-o",
            path,
            object_file,
        ],
        ["objcopy", "-O", "binary" if addresses else "elf32-i386", path],
    ):
        subprocess.run([str(word) for word in argv], check=True, capture_output=True)
    return path.read_bytes()


# Starts a second CPU at address 0 by INIT and start-up IPI, then waits until the number of CPUs in
# the firmware configuration is up.
SMP = """
    mov $trampoline, %esi ; xor %edi, %edi ; mov $(trampoline_end - trampoline), %ecx
    cld ; rep movsb
    movl $0x000c4500, 0xfee00300
    movl $0x000c4600, 0xfee00300
    mov $5, %ax ; call fw_cfg
1:  pause ; cmp up, %eax ; jne 1b
    cmp $2, %eax ; jne broken
    say "PASS: two CPUs\\n"
    leave 0

.code16
trampoline:
    lgdtl descriptors - trampoline
    mov %cr0, %eax ; or $1, %al ; mov %eax, %cr0
    ljmpl $8, $second
descriptors: .word 23 ; .long gdt
trampoline_end:
.code32
second:
    mov $16, %ax ; mov %ax, %ds ; mov %ax, %ss
    lock incl up
1:  hlt ; jmp 1b
.data
up: .long 1
.balign 8
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
"""

# Enters long mode with its own page tables, then measures a loop of exits like vmexit.flat.
LONG_MODE = """
    lgdt descriptors
    mov %cr4, %eax ; or $0x20, %eax ; mov %eax, %cr4
    mov $level4, %eax ; mov %eax, %cr3
    mov $0xc0000080, %ecx ; rdmsr ; or $0x100, %eax ; wrmsr
    mov %cr0, %eax ; or $0x80000000, %eax ; mov %eax, %cr0
    ljmp $8, $long
.code64
long:
    mov $stack, %esp
    rdtsc ; shl $32, %rdx ; or %rax, %rdx ; mov %rdx, %r8
    mov $64, %r10d
1:  xor %eax, %eax ; cpuid ; dec %r10d ; jnz 1b
    rdtsc ; shl $32, %rdx ; or %rdx, %rax ; sub %r8, %rax ; shr $6, %rax
    lea number_end(%rip), %rdi ; mov $10, %ecx
2:  xor %edx, %edx ; div %rcx ; add $48, %dl ; dec %rdi ; mov %dl, (%rdi)
    test %rax, %rax ; jnz 2b
    lea name(%rip), %rsi ; call puts64
    mov %rdi, %rsi ; call puts64
    lea passed(%rip), %rsi ; call puts64
    xor %eax, %eax ; mov $0xf4, %dx ; out %eax, %dx
    hlt
puts64:
    mov $0x3f8, %dx
1:  lodsb ; test %al, %al ; jz 2f ; out %al, %dx ; jmp 1b
2:  ret
.data
name: .asciz "cpuid "
passed: .asciz "PASS: in long mode\\n"
number: .skip 20
number_end: .asciz "\\n"
descriptors: .word 15 ; .long gdt64
.balign 8
gdt64: .quad 0, 0x00af9b000000ffff
.balign 4096
level4: .quad level3 + 7
.balign 4096
level3: .quad level2 + 7, level2 + 0x1007, level2 + 0x2007, level2 + 0x3007
.balign 4096
level2:
    .set page, 0
    .rept 2048
    .quad page << 21 | 0x1e7
    .set page, page + 1
    .endr
"""
