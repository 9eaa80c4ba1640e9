/* Preloaded into a process, makes what it writes to regular files below SLOW_DISK_FOLDER slow, as a disk is: one request after the
 * other, SLOW_DISK_BYTES_PER_S, and SLOW_DISK_SYNC_US for each sync. The file SLOW_DISK_TOTALS holds two native int64: bytes
 * written and microseconds waited, over all processes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *folder;
static size_t folder_length;
static int64_t bytes_per_s, sync_us, *totals;
static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void open_disk(void) {
    const char *rate = getenv("SLOW_DISK_BYTES_PER_S"), *sync = getenv("SLOW_DISK_SYNC_US");
    const char *path = getenv("SLOW_DISK_TOTALS");
    int file = path ? open(path, O_RDWR) : -1;
    folder = getenv("SLOW_DISK_FOLDER");
    if (!folder || !rate || !sync || file < 0) _exit(97);
    folder_length = strlen(folder);
    bytes_per_s = atoll(rate);
    sync_us = atoll(sync);
    totals = mmap(NULL, 2 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (totals == MAP_FAILED) _exit(98);
    close(file);
}

static int is_slow(int file) {
    struct stat status;
    char link[40], path[PATH_MAX];
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length > (ssize_t)folder_length && strncmp(path, folder, folder_length) == 0;
}

static void busy(int64_t us) {
    struct timespec pause = {us / 1000000, us % 1000000 * 1000};
    pthread_mutex_lock(&disk);
    while (nanosleep(&pause, &pause) != 0) continue;
    pthread_mutex_unlock(&disk);
    __atomic_add_fetch(&totals[1], us, __ATOMIC_RELAXED);
}

static void transfer(int file, int64_t bytes) {
    if (bytes <= 0 || !is_slow(file)) return;
    __atomic_add_fetch(&totals[0], bytes, __ATOMIC_RELAXED);
    busy(bytes * 1000000 / bytes_per_s);
}

ssize_t write(int file, const void *data, size_t size) {
    ssize_t done = syscall(SYS_write, file, data, size);
    transfer(file, done);
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    ssize_t done = syscall(SYS_pwrite64, file, data, size, at);
    transfer(file, done);
    return done;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return pwrite64(file, data, size, at); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    ssize_t done = syscall(SYS_writev, file, parts, count);
    transfer(file, done);
    return done;
}

int fsync(int file) {
    if (is_slow(file)) busy(sync_us);
    return syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    if (is_slow(file)) busy(sync_us);
    return syscall(SYS_fdatasync, file);
}
