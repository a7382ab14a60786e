/* Shifts the time of day by CLOCK_OFFSET seconds while the file CLOCK_FLAG exists; loaded with LD_PRELOAD.
 *
 * The kernel's clock stays as it is, so a moment that a process waits for by the time of day is shifted back on its
 * way to the kernel: otherwise every such wait would end at once, and its thread would spin. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *flag;
static long seconds;
static int (*real)(clockid_t, struct timespec *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static long (*real_syscall)(long, ...);

__attribute__((constructor)) static void start(void) {
    const char *given = getenv("CLOCK_OFFSET");
    if (real) return;
    seconds = given ? atol(given) : 0;
    flag = getenv("CLOCK_FLAG");
    real_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* not x86's older one */
    if (!real_timedwait) real_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_clockwait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    real = dlsym(RTLD_NEXT, "clock_gettime");
}

/* The file is looked at every 50 ms at most: Ray asks for the time many thousand times a second. */
static long offset(void) {
    static _Atomic long next, shift;
    struct timespec t;
    real(CLOCK_MONOTONIC_COARSE, &t);
    long now = t.tv_sec * 1000 + t.tv_nsec / 1000000;
    if (now >= next) {
        next = now + 50;
        shift = flag && !access(flag, F_OK) ? seconds : 0;
    }
    return shift;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    start();
    int result = real(id, now);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec t;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &t);
    if (!result) *now = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return result;
}

time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}

/* A moment of the shifted clock, as the kernel knows it. Which clock a condition waits by cannot be asked: a moment
 * after 2001 is taken for one of the time of day, since no machine has been up for so long. */
static struct timespec unshifted(const struct timespec *moment) {
    struct timespec t = *moment;
    if (t.tv_sec > 1000000000) t.tv_sec -= offset();
    return t;
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict t) {
    start();
    struct timespec moment = unshifted(t);
    return real_timedwait(c, m, &moment);
}

int pthread_cond_clockwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, clockid_t id,
                           const struct timespec *restrict t) {
    start();
    struct timespec moment = unshifted(t);
    return real_clockwait(c, m, id, &moment);
}

long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    start();
    struct timespec moment;
    if (number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        moment = unshifted((const struct timespec *)a[3]);
        a[3] = (long)&moment;
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
