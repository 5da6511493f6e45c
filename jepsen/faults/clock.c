/*
 * A wall clock that can be wrong, for one process: preloaded, it fakes CLOCK_REALTIME and nothing else. The
 * monotonic clock stays the kernel's, because timers, time-outs and elections run by it, and no machine's clock
 * steps that one.
 *
 * OVJ_CLOCK_FILE names a file of four 64-bit integers that is mapped once and read at each call:
 *
 *     version     odd while the rest is being changed
 *     offset_ns   added to the true time
 *     rate_ppm    gained per million nanoseconds since since_ns
 *     since_ns    true time from which on the rate counts
 *
 * Without it, or while it cannot be mapped, the true time is shown.
 *
 * Not faked: waits for an absolute wall-clock time (sem_timedwait and the like), file times, what another process
 * says.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <dlfcn.h>

#define SECOND_NS 1000000000LL
/* Tries to read a version that does not change meanwhile; a writer needs microseconds. */
#define READS_MAX 1000

struct control {
    _Atomic int64_t version;
    _Atomic int64_t offset_ns;
    _Atomic int64_t rate_ppm;
    _Atomic int64_t since_ns;
};

typedef int (*clock_gettime_fn)(clockid_t, struct timespec *);

static struct control *control;
static clock_gettime_fn true_clock_gettime;

__attribute__((constructor)) static void prepare(void) {
    true_clock_gettime = (clock_gettime_fn)dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("OVJ_CLOCK_FILE");
    if (path == NULL)
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0)
        return;
    if (fstat(file, &status) == 0 && status.st_size >= (off_t)sizeof *control) {
        void *mapped = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED)
            control = mapped;
    }
    close(file);
}

static int true_time(clockid_t clock, struct timespec *time) {
    /* Other libraries' constructors may ask before ours has run. */
    if (true_clock_gettime == NULL)
        return (int)syscall(SYS_clock_gettime, clock, time);
    return true_clock_gettime(clock, time);
}

/* What the clock shows when the true time is now_ns. */
static int64_t shown_ns(int64_t now_ns) {
    if (control == NULL)
        return now_ns;
    for (int reads = 0; reads < READS_MAX; reads++) {
        int64_t version = atomic_load(&control->version);
        int64_t offset_ns = atomic_load(&control->offset_ns);
        int64_t rate_ppm = atomic_load(&control->rate_ppm);
        int64_t since_ns = atomic_load(&control->since_ns);
        if (version % 2 == 0 && version == atomic_load(&control->version)) {
            __int128 gained = (__int128)(now_ns - since_ns) * rate_ppm / 1000000;
            return now_ns + offset_ns + (int64_t)gained;
        }
    }
    return now_ns;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = true_time(clock, time);
    if (outcome != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return outcome;
    int64_t shown = shown_ns((int64_t)time->tv_sec * SECOND_NS + time->tv_nsec);
    time->tv_sec = shown / SECOND_NS;
    time->tv_nsec = shown % SECOND_NS;
    if (time->tv_nsec < 0) {
        time->tv_nsec += SECOND_NS;
        time->tv_sec -= 1;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return (time_t)-1;
    if (where != NULL)
        *where = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *time, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, time) == 0 ? base : 0;
}
