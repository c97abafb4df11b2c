"""Lets a running server try what it may not: each call is made in its own process, by ptrace, and its answer printed.

    walls_probe.py THREAD LIBRARY OUTSIDE INSIDE

THREAD is the id of one of its threads; that of the process is the main one's. x86-64 and root. The answers are those of the kernel: 0 or more, or the negative errno.
"""

import ctypes
import json
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

GETREGS, SETREGS, DETACH, TO_SYSCALL, SEIZE, INTERRUPT = 12, 13, 17, 24, 0x4206, 0x4207
WALL = 0x40000000
NAMES = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
         "fs_base gs_base ds es fs gs").split()
AT_CWD = -100 & 0xFFFFFFFFFFFFFFFF
PRIVATE, ANONYMOUS, READ_EXECUTE = 2, 0x20, 5
CREATE_TO_WRITE = 0o101
SHARED_CODE = 0o100000


class Traced:
    """A thread of a process, which stands still meanwhile."""

    def __init__(self, pid):
        self.pid = pid
        self.ptrace(SEIZE)
        self.ptrace(INTERRUPT)
        os.waitpid(pid, WALL)
        self.memory = open(f"/proc/{pid}/mem", "r+b", buffering=0)
        self.before = self.registers()
        self.memory.seek(self.before["rip"] - 2)
        assert self.memory.read(2) == b"\x0f\x05", "the thread does not wait in a system call"

    def ptrace(self, request, data=None):
        if libc.ptrace(request, self.pid, None, data) == -1:
            raise OSError(ctypes.get_errno(), f"ptrace {request}")

    def registers(self):
        space = ctypes.create_string_buffer(8 * len(NAMES))
        self.ptrace(GETREGS, space)
        return dict(zip(NAMES, struct.unpack(f"{len(NAMES)}Q", space.raw)))

    def set_registers(self, registers):
        packed = struct.pack(f"{len(NAMES)}Q", *(registers[name] for name in NAMES))
        self.ptrace(SETREGS, ctypes.create_string_buffer(packed, len(packed)))

    def call(self, number, *arguments):
        """Makes a system call; texts are put below the stack's red zone."""
        registers, free = dict(self.before), self.before["rsp"] - 8192
        for name, argument in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments + (0,) * 6):
            if isinstance(argument, str):
                self.memory.seek(free)
                self.memory.write(argument.encode() + b"\0")
                argument, free = free, free + 512
            registers[name] = argument & 0xFFFFFFFFFFFFFFFF
        registers["rax"] = number
        registers["orig_rax"] = 0xFFFFFFFFFFFFFFFF
        registers["rip"] -= 2
        self.set_registers(registers)
        for _entry_and_exit in range(2):
            self.ptrace(TO_SYSCALL)
            os.waitpid(self.pid, WALL)
        return struct.unpack("q", struct.pack("Q", self.registers()["rax"]))[0]

    def let_go(self):
        self.set_registers(self.before)
        self.ptrace(DETACH)


def main():
    pid, library, outside, inside = int(sys.argv[1]), *sys.argv[2:5]
    server = Traced(pid)
    said = {}
    try:
        page = server.before["rsp"] & ~4095
        opened = server.call(257, AT_CWD, library, 0, 0)
        for name, arguments in {
            "execve": (59, "/bin/true", 0, 0),
            "execveat": (322, AT_CWD, "/bin/true", 0, 0, 0),
            "fork": (57,),
            "vfork": (58,),
            "clone": (56, 17, 0, 0, 0, 0),
            "clone3": (435, page, 64),
            "ptrace": (101, 16, os.getppid(), 0, 0),
            "process_vm_readv": (310, os.getppid(), page, 0, page, 0, 0),
            "process_vm_writev": (311, os.getppid(), page, 0, page, 0, 0),
            "mount": (165, "none", "/mnt", "tmpfs", 0, 0),
            "umount2": (166, "/mnt", 0),
            "init_module": (175, page, 0, ""),
            "finit_module": (313, opened, "", 0),
            "delete_module": (176, "none", 0),
            "kexec_load": (246, 0, 0, 0, 0),
            "bpf": (321, 0, page, 0),
            "io_uring_setup": (425, 1, page),
            "keyctl": (250, 0, 0, 0, 0, 0),
            "unshare": (272, 0x10000000),
            "setuid": (105, 65534),
            "clock_settime": (227, 0, page),
            # What dlopen does: a library's code in memory, or memory made code.
            "mmap of a library as code": (9, 0, 4096, READ_EXECUTE, PRIVATE, opened, 0),
            "mmap of code": (9, 0, 4096, READ_EXECUTE, PRIVATE | ANONYMOUS, -1, 0),
            "mprotect": (10, page, 4096, 7),
            "pkey_mprotect": (329, page, 4096, 7, -1),
            "shmat": (30, 0, 0, 0),
            "shmat of code": (30, 0, 0, SHARED_CODE),
            "read outside": (257, AT_CWD, outside + "/file", 0, 0),
            "list outside": (257, AT_CWD, outside, 0o200000, 0),
            "write outside": (257, AT_CWD, outside + "/new", CREATE_TO_WRITE, 0o600),
            "mkdir outside": (83, outside + "/folder", 0o700),
            "unlink outside": (87, outside + "/file"),
            "rename to outside": (82, inside + "/file", outside + "/renamed"),
            "read /root": (257, AT_CWD, "/root", 0o200000, 0),
        }.items():
            said[name] = server.call(*arguments)
        for name, arguments in {
            "read a library": (257, AT_CWD, library, 0, 0),
            "write inside": (257, AT_CWD, inside + "/new", CREATE_TO_WRITE, 0o600),
            "read /etc/hosts": (257, AT_CWD, "/etc/hosts", 0, 0),
        }.items():
            said[name] = server.call(*arguments)
            if said[name] >= 0:
                server.call(3, said[name])
        server.call(3, opened)
    finally:
        server.let_go()
    print(json.dumps(said))


main()
