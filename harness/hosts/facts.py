"""Facts of a host: one shell command reads them, pure functions parse them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from harness.errors import HostError
from harness.hosts.base import HostFacts
from harness.ssh.process import Completed

# One shell and few programs: a fork takes 10 ms or more on an emulated CPU. Each section starts
# with "@ name". A missing file leaves its section empty. The kernel's lists of cores are binary
# attributes that a shell, which reads byte by byte, finds empty; before 5.3 they have another name.
SCRIPT = r"""
echo '@ uname'; uname -n; uname -r
echo '@ cpuinfo'; cat /proc/cpuinfo
echo '@ memory'; head -n 1 /proc/meminfo
echo '@ allowed'; while read -r name list; do
test "$name" = Cpus_allowed_list: && echo "$list"; done </proc/self/status
cd /sys/devices/system/cpu || exit 0
echo '@ governor'; cat cpu0/cpufreq/scaling_governor 2>/dev/null
echo '@ smt'; cat smt/control 2>/dev/null
echo '@ cores'; for f in core_cpus thread_siblings; do
cat cpu[0-9]*/topology/${f}_list 2>/dev/null && break; done
echo '@ mitigations'; cd vulnerabilities 2>/dev/null &&
for f in *; do read -r line <$f && echo "$f:$line"; done
echo '@ kvm'; test -e /dev/kvm && echo dev
test -e /sys/module/kvm_pvm && echo pvm
true
"""


_CPU_LIST = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")


def parse_sections(text: str) -> dict[str, list[str]]:
    """Split the output of a script into sections. Returns the lines of each by its name."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("@ "):
            lines = sections.setdefault(line[2:].strip(), [])
        elif line.strip():
            lines.append(line.strip())
    return sections


def first_line(sections: dict[str, list[str]], name: str) -> str:
    """The first line of a section, "" without one."""
    return (sections.get(name) or [""])[0]


def parse_cpuinfo(lines: list[str]) -> tuple[int, dict[str, str]]:
    """Parse /proc/cpuinfo. Returns the number of CPUs and the first CPU's fields."""
    first: dict[str, str] = {}
    count = 0
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip()
        if colon:
            count += name == "processor"
            first.setdefault(name, value.strip())
    return count, first


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The numbers in a list such as "0-2,5" (cpuset(7), list format)."""
    ranges = [part.partition("-") for part in text.split(",") if part]
    return tuple(n for low, _, high in ranges for n in range(int(low), int(high or low) + 1))


def parse_cores(lines: list[str]) -> tuple[tuple[int, ...], ...]:
    """The CPUs of each core, from each CPU's list of siblings. Lists that overlap are one core."""
    cores: list[set[int]] = []
    for line in lines:
        threads = set(parse_cpu_list(line)) if _CPU_LIST.fullmatch(line) else set()
        for core in [core for core in cores if core & threads]:
            cores.remove(core)
            threads |= core
        if threads:
            cores.append(threads)
    return tuple(sorted(tuple(sorted(core)) for core in cores))


def backend_of(flags: set[str], kvm: list[str], emulated: bool) -> str:
    """See HostFacts.backend. flags: of the CPU. kvm: the section's lines."""
    if emulated:
        return "emulated"
    if "pvm" in kvm:
        return "pvm"
    if "dev" in kvm:
        return next((flag for flag in ("vmx", "svm") if flag in flags), "none")
    return "none"


def parse_facts(text: str, *, emulated: bool = False) -> HostFacts:
    """Parse the output of SCRIPT. Raises HostError when a section is missing."""
    sections = parse_sections(text)
    cpus, cpu = parse_cpuinfo(sections.get("cpuinfo", []))
    uname = sections.get("uname", [])
    memory = sections.get("memory", [])
    if len(uname) != 2 or not cpus or not memory:
        raise HostError(
            f"the host's facts cannot be read: {text[:200]!r}",
            hint="use a Linux host with /proc mounted and a POSIX shell",
            stage="host",
        )

    line_of = partial(first_line, sections)
    allowed = parse_cpu_list(line_of("allowed"))
    mitigations = dict(line.split(":", 1) for line in sections.get("mitigations", []))
    return HostFacts(
        hostname=uname[0],
        backend=backend_of(set(cpu.get("flags", "").split()), sections.get("kvm", []), emulated),
        cpu_model=cpu.get("model name", cpu.get("vendor_id", "")),
        cpus=len(allowed) or cpus,
        cpu_numbers=allowed,
        core_threads=parse_cores(sections.get("cores", [])),
        memory=int(memory[0].split()[1]) * 1024,
        kernel=uname[1],
        microcode=cpu.get("microcode", ""),
        governor=line_of("governor"),
        smt=line_of("smt"),
        mitigations=mitigations,
    )


def read_facts(run: Callable[[list[str]], Completed], *, emulated: bool = False) -> HostFacts:
    """Run SCRIPT on a host and parse its output. emulated: see Host.emulated."""
    return parse_facts(run(["sh", "-c", SCRIPT]).stdout, emulated=emulated)
