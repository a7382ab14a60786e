/* Shifts the time of day by CLOCK_OFFSET seconds while the file CLOCK_FLAG exists; loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *flag;
static long seconds;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
    const char *offset = getenv("CLOCK_OFFSET");
    seconds = offset ? atol(offset) : 0;
    flag = getenv("CLOCK_FLAG");
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
    if (!real) start();
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
