/* What goes wrong around a server, as the test says in a file that both have mapped: where its connections come
 * from, what its wall clock shows, and how its disk does. Loaded before the C library (LD_PRELOAD). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct faults {
    long long wall_offset_s;
    long long sync_takes_ms;
    long long sync_fails;
    long long disk_is_full;
    long long slept_ms;
};

static volatile struct faults *faults;
static struct in_addr source;

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

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (faults && clock == CLOCK_REALTIME) now->tv_sec += faults->wall_offset_s;
    /* While a machine sleeps this clock stands still; the one that counts from its start (CLOCK_BOOTTIME) goes on. */
    if (faults && clock == CLOCK_MONOTONIC) {
        long long ns = now->tv_sec * 1000000000LL + now->tv_nsec - faults->slept_ms * 1000000;
        now->tv_sec = ns / 1000000000;
        now->tv_nsec = ns % 1000000000;
    }
    return result;
}

/* What has room already may be written again as it was; nobody can count on it. */
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (faults && faults->disk_is_full) {
        errno = ENOSPC;
        return -1;
    }
    return real(file, bytes, count, at);
}

static int on_bad_disk(int (*real)(int), int file) {
    if (!faults) return real(file);
    long long ms = faults->sync_takes_ms;
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
