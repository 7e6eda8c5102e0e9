#include "run.h"

#include <sys/resource.h>
#include <time.h>

#include "cpu.h"

#define MOST_ERRORS 1000             /* after that the run is given up */

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void allow_descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int64_t own_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double server_seconds(const struct run *run)
{
    return run->set.server ? process_cpu(run->set.server) : -1;
}

static void open_window(struct run *run, int64_t now)
{
    run->phase = MEASURING;
    run->begin = now;
    run->server_cpu = server_seconds(run);
    run->own_cpu = own_cpu_ns();
    run->idle = 0;
}

static void close_window(struct run *run, int64_t now)
{
    double used = server_seconds(run);
    if (run->phase == WARMING)
        open_window(run, now);
    run->phase = DRAINING;
    run->end = now;
    run->own_cpu = own_cpu_ns() - run->own_cpu;
    run->server_cpu = used < 0 || run->server_cpu < 0 ? -1 : used - run->server_cpu;
}

void run_begin(struct run *run)
{
    run->begin = now_ns();
    run->phase = WARMING;
    if (run->set.warm_up <= 0)
        open_window(run, run->begin);
}

void run_waited(struct run *run, int64_t since, int64_t now)
{
    if (run->phase == MEASURING)
        run->idle += now - since;
}

int run_patience(const struct run *run)
{
    return run->set.spin ? 0 : 10;
}

void run_tick(struct run *run, int64_t now)
{
    double passed = (double)(now - run->begin) / 1e9;
    bool enough = run->set.limit && run->finished >= run->set.limit;
    bool over = passed >= run->set.seconds && (run->operations || run->errors_total);
    if (run->phase == DRAINING)
        return;
    if (run->errors_total >= MOST_ERRORS)
        close_window(run, now);
    else if (run->phase == WARMING && passed >= run->set.warm_up)
        open_window(run, now);
    else if (run->phase == MEASURING && (over || enough))
        close_window(run, now);
}

void run_end(struct run *run)
{
    if (run->phase != DRAINING)
        close_window(run, now_ns());
}

bool run_take(struct run *run)
{
    if (run->phase == DRAINING || (run->set.limit && run->started >= run->set.limit))
        return false;
    run->started++;
    return true;
}

void run_done(struct run *run, int64_t latency)
{
    run->finished++;
    if (run->phase != MEASURING)
        return;
    run->operations++;
    histogram_add(&run->latency, latency);
}

void run_error(struct run *run, enum error kind)
{
    run->errors[kind]++;
    run->errors_total++;
}

void fill_pattern(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        text[i] = (char)('a' + i % 26);
}
