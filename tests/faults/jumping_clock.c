/* Preloaded into a process, moves its wall clock by the microseconds that the file CLOCK_OFFSET_FILE holds (a native
 * int64), as setting the machine's clock would: the monotonic clock goes on, and a wait until an instant of the wall clock ends
 * when the moved clock says so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS 20000000L
#define NS 1000000000L
/* Waits with a monotonic deadline come through the same functions; no machine is up for thirty years. */
#define WALL_S 1000000000L

static volatile int64_t none, *offset_us = &none;

__attribute__((constructor)) static void open_offset(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) _exit(97);
    void *place = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (place == MAP_FAILED) _exit(98);
    offset_us = place;
    close(file);
}

static void real(struct timespec *now) { syscall(SYS_clock_gettime, CLOCK_REALTIME, now); }

static void moved(struct timespec *now) {
    real(now);
    int64_t ns = now->tv_nsec + (*offset_us % 1000000) * 1000;
    now->tv_sec += *offset_us / 1000000 + ns / NS - (ns % NS < 0);
    now->tv_nsec = (ns % NS + NS) % NS;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return syscall(SYS_clock_gettime, clock, now);
    moved(now);
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    moved(&exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec now;
    moved(&now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}

static int reached(const struct timespec *deadline) {
    struct timespec now;
    moved(&now);
    return now.tv_sec > deadline->tv_sec || (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

static struct timespec soon(void) {
    struct timespec until;
    real(&until);
    until.tv_nsec += SLICE_NS;
    until.tv_sec += until.tv_nsec / NS;
    until.tv_nsec %= NS;
    return until;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
    static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!wait) wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!wait) wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (deadline->tv_sec < WALL_S) return wait(condition, mutex, deadline);
    if (reached(deadline)) return ETIMEDOUT;
    struct timespec slice = soon();
    int result = wait(condition, mutex, &slice);
    /* A slice that has ended is a spurious wakeup, which every caller must expect. */
    return result == ETIMEDOUT && !reached(deadline) ? 0 : result;
}

/* What librdkafka waits with; always by the wall clock. */
int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *deadline) {
    static int (*wait)(cnd_t *, mtx_t *, const struct timespec *);
    if (!wait) wait = dlsym(RTLD_NEXT, "cnd_timedwait");
    if (reached(deadline)) return thrd_timedout;
    struct timespec slice = soon();
    int result = wait(condition, mutex, &slice);
    return result == thrd_timedout && !reached(deadline) ? thrd_success : result;
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
    static int (*wait)(sem_t *, const struct timespec *);
    if (!wait) wait = dlsym(RTLD_NEXT, "sem_timedwait");
    for (;;) {
        struct timespec slice = soon();
        int result = wait(semaphore, &slice);
        if (result == 0 || errno != ETIMEDOUT || reached(deadline)) return result;
    }
}
