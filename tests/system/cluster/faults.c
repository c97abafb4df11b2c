/* What goes wrong around a server, as the test says in a file that both have mapped: where its connections come
 * from, what its clocks show, and how its disk does. Loaded before the C library (LD_PRELOAD). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/types.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct faults {
    long long wall_offset_s;
    long long sync_takes_ms;
    long long sync_fails;
    long long disk_is_full;
    long long slept_ms;
    long long passed_s;
    long long write_fails;
    long long audit_sync_fails;
    long long audit_sync_takes_ms;
};

static volatile struct faults *faults;
static struct in_addr source;

/* Asked of the kernel itself: what would be asked otherwise leads here. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!faults) return result;
    if (clock == CLOCK_REALTIME) now->tv_sec += faults->wall_offset_s + faults->passed_s;
    if (clock == CLOCK_BOOTTIME) now->tv_sec += faults->passed_s;
    /* While a machine sleeps this clock stands still; the one that counts from its start (CLOCK_BOOTTIME) goes on. */
    if (clock == CLOCK_MONOTONIC) {
        long long ns = now->tv_sec * 1000000000LL + now->tv_nsec - faults->slept_ms * 1000000;
        now->tv_sec = ns / 1000000000;
        now->tv_nsec = ns % 1000000000;
    }
    return result;
}

#ifndef __x86_64__
#error "how the kernel's shared object is led here is known for x86-64 only"
#endif
/* Not all of the server asks the C library for the time: some of it calls what the kernel has mapped for that (vDSO).
 * That function gets a jump to ours for its beginning, in this process alone. */
static void lead_clocks_here(void) {
    char *object = (char *)getauxval(AT_SYSINFO_EHDR);
    if (!object) return;
    Elf64_Ehdr *head = (Elf64_Ehdr *)object;
    Elf64_Phdr *parts = (Elf64_Phdr *)(object + head->e_phoff);
    Elf64_Dyn *dynamic = 0;
    char *base = object;
    for (int i = 0; i < head->e_phnum; i++) {
        if (parts[i].p_type == PT_DYNAMIC) dynamic = (Elf64_Dyn *)(object + parts[i].p_offset);
        if (parts[i].p_type == PT_LOAD) base = object + parts[i].p_offset - parts[i].p_vaddr;
    }
    char *names = 0;
    Elf64_Sym *symbols = 0;
    for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag == DT_STRTAB) names = base + dynamic->d_un.d_ptr;
        if (dynamic->d_tag == DT_SYMTAB) symbols = (Elf64_Sym *)(base + dynamic->d_un.d_ptr);
    }
    if (!names || !symbols) abort();
    /* The names follow the symbols. */
    for (Elf64_Sym *symbol = symbols; (char *)symbol < names; symbol++) {
        if (strcmp(names + symbol->st_name, "__vdso_clock_gettime")) continue;
        /* movabs $clock_gettime, %rax; jmp *%rax */
        unsigned char jump[12] = {0x48, 0xb8, [10] = 0xff, [11] = 0xe0};
        uintptr_t ours = (uintptr_t)clock_gettime;
        memcpy(jump + 2, &ours, sizeof ours);
        char *at = base + symbol->st_value, *page = (char *)((uintptr_t)at & ~4095UL);
        if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) abort();
        memcpy(at, jump, sizeof jump);
        mprotect(page, 8192, PROT_READ | PROT_EXEC);
        return;
    }
    abort();
}

__attribute__((constructor)) static void map_faults(void) {
    const char *address = getenv("CHAOS_SOURCE"), *path = getenv("CHAOS_FAULTS");
    if (!path) return;
    /* Where each member has a network of its own, its connections come from there by themselves. */
    if (address && !inet_aton(address, &source)) abort();
    int file = open(path, O_RDONLY | O_CLOEXEC);
    void *mapped = mmap(0, sizeof *faults, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) abort();
    faults = mapped;
    lead_clocks_here();
}

int connect(int socket, const struct sockaddr *to, socklen_t length) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (!real) real = dlsym(RTLD_NEXT, "connect");
    if (source.s_addr && to->sa_family == AF_INET) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = source};
        int later = 1;
        setsockopt(socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later);
        bind(socket, (struct sockaddr *)&from, sizeof from);
    }
    return real(socket, to, length);
}

/* What has room already may be written again as it was; nobody can count on it. */
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (faults && (faults->disk_is_full || faults->write_fails)) {
        errno = faults->write_fails ? EIO : ENOSPC;
        return -1;
    }
    return real(file, bytes, count, at);
}

static int is_audit_log(int file) {
    static const char name[] = "/audit.log";
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path), end = sizeof name - 1;
    return length >= end && !memcmp(path + length - end, name, end);
}

static int on_bad_disk(int (*real)(int), int file) {
    if (!faults) return real(file);
    long long ms = faults->sync_takes_ms;
    if ((faults->audit_sync_fails || faults->audit_sync_takes_ms) && is_audit_log(file)) {
        if (faults->audit_sync_fails) {
            errno = EIO;
            return -1;
        }
        ms = faults->audit_sync_takes_ms;
    }
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    if (ms > 0) nanosleep(&pause, 0);
    if (faults->sync_fails) {
        errno = EIO;
        return -1;
    }
    return real(file);
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    return on_bad_disk(real, file);
}

int fsync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return on_bad_disk(real, file);
}
